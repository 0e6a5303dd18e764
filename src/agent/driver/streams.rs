//! What an agent writes and what it is given: bytes on their way in and out, and what its dialect says of them.

use std::{collections::VecDeque, io, sync::atomic::Ordering};

use tokio::runtime::{Handle, RuntimeFlavor};

use super::{CHUNK, Driver, INPUT_BYTES, ORDER_BYTES, Piece, READS, Run, UNREAD_BYTES};
use crate::{
    agent::{
        handle::{Host, News, NotTaken},
        launch::Exit,
        output::{Cut, Splitter, Stream},
        rules::State,
        state::Event,
        wire,
    },
    dialect::{self, Decision, Dialect, Step},
};

/// Bytes of a line that is understood in no time.
const SHORT: usize = 256 << 10;

/// Does what takes as long as so many bytes, so that others who wait for this thread do not wait for that.
fn at_ease<T>(bytes: usize, act: impl FnOnce() -> T) -> T {
    let may_leave = || Handle::try_current().is_ok_and(|here| here.runtime_flavor() == RuntimeFlavor::MultiThread);
    match bytes > SHORT && may_leave() {
        true => tokio::task::block_in_place(act),
        false => act(),
    }
}

/// What a parent process says, in the words of dialects.
pub(super) fn answer_of(done: wire::Done) -> dialect::Answer {
    let exit = |exit: Exit| dialect::Exit {
        code: exit.code,
        signal: exit.signal,
    };
    match done {
        wire::Done::Created { terminal } => dialect::Answer::Terminal(terminal),
        wire::Done::Output {
            text,
            truncated,
            exit: ended,
        } => dialect::Answer::Output {
            text,
            truncated,
            exit: ended.map(exit),
        },
        wire::Done::Ended(ended) => dialect::Answer::Exited(exit(ended)),
        wire::Done::Failed(why) => dialect::Answer::Failed(why),
    }
}

impl<H: Host> Driver<H> {
    /// Says whether there was something to interrupt, in words that the agent knows.
    pub(super) fn interrupt(&mut self) -> bool {
        let mut heard = false;
        self.speak(|dialect, step| heard = dialect.interrupt(step).is_ok());
        heard
    }

    /// Lets the dialect do something, and does what it says.
    pub(super) fn speak(&mut self, act: impl FnOnce(&mut dyn Dialect, &mut Step)) {
        let mut decided = VecDeque::from(self.speak_once(act));
        while let Some((request, decision)) = decided.pop_front() {
            decided.extend(self.speak_once(|dialect, step| dialect.permit(&request, decision, step)));
        }
    }

    /// The same, but for questions that are decided at once: these are what it returns, by the agent's own names of them.
    fn speak_once(&mut self, act: impl FnOnce(&mut dyn Dialect, &mut Step)) -> Vec<(String, Decision)> {
        let Some(run) = &mut self.run else { return Vec::new() };
        let mut step = Step::default();
        act(run.dialect.as_mut(), &mut step);
        let mut refused = Vec::new();
        for order in std::mem::take(&mut step.orders) {
            let id = order.id().to_owned();
            if let Err(why) = self.carry_out(order) {
                refused.push((id, why.to_owned()));
            }
        }
        let Some(run) = &mut self.run else { return Vec::new() };
        for (id, why) in refused {
            let mut more = Step::default();
            run.dialect.answer(&id, dialect::Answer::Failed(why), &mut more);
            step.events.append(&mut more.events);
            step.input.append(&mut more.input);
        }
        for bytes in step.input {
            run.input_bytes += bytes.len();
            run.input.push_back(bytes);
        }
        if run.input_bytes > UNREAD_BYTES && !run.close_input {
            // It asks and asks and does not read what it is told.
            run.close_input = true;
            run.input.clear();
            (run.input_bytes, run.written) = (0, 0);
            let text = "it does not read what it is answered: its input is closed";
            self.host.told(News::Trouble(text.to_owned()));
        }
        run.close_input |= step.close_input;
        let mut decided = Vec::new();
        for event in step.events {
            let Some(run) = &mut self.run else { return Vec::new() };
            let run_at = run.line_end;
            if let dialect::Event::Permission(asked) = &event
                && !asked.is_refused
                && let Some(decision) = self.host.decide(asked)
            {
                decided.push((asked.request.clone(), decision));
                continue;
            }
            match &event {
                dialect::Event::Ready => self.events.push_back(Event::SessionReady),
                dialect::Event::SessionGone { ends: true, .. } => self.events.push_back(Event::Again),
                dialect::Event::Unfit { .. } => self.events.push_back(Event::Unfit),
                dialect::Event::TurnStarted { .. } => self.events.push_back(Event::TurnStarted),
                dialect::Event::TurnEnded(ended) => {
                    run.open_questions.clear();
                    run.open_calls = 0;
                    self.events.extend(ended.usage.cost_microusd.map(Event::Spent));
                    self.events.push_back(Event::TurnEnded);
                }
                dialect::Event::Permission(asked) if !asked.is_refused => {
                    if !run.open_questions.contains(&asked.request) {
                        run.open_questions.push(asked.request.clone());
                    }
                    self.events.push_back(Event::PermissionAsked);
                }
                dialect::Event::PermissionGone { request, .. } => {
                    self.question_gone(request);
                }
                dialect::Event::ToolStarted(tool) if !tool.background => {
                    run.open_calls += 1;
                    self.events.push_back(Event::Tools { under_way: true });
                }
                dialect::Event::ToolFinished(tool) if !tool.background => {
                    run.open_calls = run.open_calls.saturating_sub(1);
                    let under_way = run.open_calls > 0;
                    self.events.push_back(Event::Tools { under_way });
                }
                _ => {}
            }
            self.host.told(News::Said(Box::new(event), run_at));
        }
        self.write();
        decided
    }

    /// It waits for no answer to that any more.
    pub(super) fn question_gone(&mut self, request: &str) {
        let Some(run) = &mut self.run else { return };
        let Some(at) = run.open_questions.iter().position(|open| open == request) else {
            return;
        };
        run.open_questions.remove(at);
        if run.open_questions.is_empty() {
            self.events.push_back(Event::PermissionsGone);
        }
    }

    /// Has somebody do what the agent wants done. Whoever does answers later.
    fn carry_out(&mut self, order: dialect::Order) -> Result<(), &'static str> {
        use dialect::Order;
        let id = order.id().to_owned();
        let deed = match order {
            Order::ReadFile { .. } | Order::WriteFile { .. } => {
                let me = self.remote().ok_or("nobody is there any more")?;
                self.host.order(self.status.run, order, &me);
                return Ok(());
            }
            Order::TerminalCreate {
                command,
                args,
                env,
                cwd,
                output_bytes,
                ..
            } => wire::Deed::Create {
                command,
                args,
                env,
                cwd,
                keep: output_bytes,
            },
            Order::TerminalOutput { terminal, .. } => wire::Deed::Output { terminal },
            Order::TerminalWait { terminal, .. } => wire::Deed::Wait { terminal },
            Order::TerminalKill { terminal, .. } => wire::Deed::Kill { terminal },
            Order::TerminalRelease { terminal, .. } => wire::Deed::Release { terminal },
            order @ Order::Http { .. } => return self.http(order),
        };
        let line = wire::line(&wire::Order::Terminal { order: id, deed });
        match &self.run {
            _ if line.len() > ORDER_BYTES => Err("the command is too long"),
            Some(run) if run.orders.pass_on(line) => Ok(()),
            _ => Err("too many orders wait"),
        }
    }

    pub(super) fn may_take_input(&self) -> Result<(), NotTaken> {
        match self.run.as_deref() {
            _ if !self.status.state.is_up() && self.status.state != State::Starting => Err(NotTaken::NotRunning),
            None => Err(NotTaken::NotRunning),
            Some(run) if run.stdin.is_none() || run.close_input => Err(NotTaken::Closed),
            Some(run) if run.input_bytes >= INPUT_BYTES => Err(NotTaken::Full),
            Some(_) => Ok(()),
        }
    }

    pub(super) fn take_input(&mut self, bytes: Vec<u8>) -> Result<(), NotTaken> {
        if self.run.is_none() && self.status.state == State::Starting {
            if self.early.len() >= INPUT_BYTES {
                return Err(NotTaken::Full);
            }
            self.early.extend_from_slice(&bytes);
            return Ok(());
        }
        self.may_take_input()?;
        if let Some(run) = &mut self.run {
            run.input_bytes += bytes.len();
            run.input.push_back(bytes);
        }
        self.write();
        Ok(())
    }

    pub(super) fn close_input(&mut self) {
        if let Some(run) = &mut self.run {
            run.close_input = true;
        }
        self.write();
    }

    /// Gives the agent as much as it takes.
    pub(super) fn write(&mut self) {
        let Some(run) = &mut self.run else { return };
        while let Some(stdin) = &run.stdin
            && let Some(bytes) = run.input.front()
        {
            match stdin.try_write(&bytes[run.written..]) {
                Ok(written) => {
                    run.written += written;
                    if run.written >= bytes.len() {
                        run.input_bytes = run.input_bytes.saturating_sub(bytes.len());
                        run.written = 0;
                        run.input.pop_front();
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    // While it is being stopped nobody waits for it to read.
                    if run.close_input && self.status.state == State::Stopping {
                        break;
                    }
                    return;
                }
                Err(_) => {
                    // It has closed its end. That is its right.
                    run.stdin = None;
                }
            }
        }
        if run.stdin.is_none() || run.close_input {
            run.stdin = None;
            run.input.clear();
            (run.input_bytes, run.written) = (0, 0);
        }
    }

    pub(super) fn read(&mut self, stream: Stream) {
        thread_local! {
            static BUFFER: std::cell::RefCell<Vec<u8>> = std::cell::RefCell::new(vec![0; CHUNK]);
        }
        BUFFER.with_borrow_mut(|buffer| {
            for _ in 0..READS {
                let Some(run) = &mut self.run else { return };
                let pipe = match stream {
                    Stream::Stdout => &mut run.stdout,
                    Stream::Stderr => &mut run.stderr,
                };
                let Some(open) = pipe else { return };
                match open.try_read(buffer) {
                    Ok(0) => {
                        *pipe = None;
                        self.flush_tail(stream);
                        self.output_may_have_ended();
                        break;
                    }
                    Ok(n) => {
                        self.keep(stream, &buffer[..n]);
                        self.events.push_back(Event::Output);
                        self.take_lines(stream, &buffer[..n]);
                        if self.spool.is_full() {
                            break;
                        }
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(_) => {
                        *pipe = None;
                        self.output_may_have_ended();
                        break;
                    }
                }
            }
        });
        self.log.ring();
    }

    /// Puts bytes on their way to the disk, without secrets.
    fn keep(&mut self, stream: Stream, bytes: &[u8]) {
        self.meter.output.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        let before = self.spool.end(stream);
        let mut begins = before;
        match self.run.as_deref_mut() {
            Some(Run {
                redactor: Some(redactor),
                sieves,
                ..
            }) => {
                let sieve = &mut sieves[stream as usize];
                let held = sieve.held();
                let shown = sieve.push(redactor, bytes);
                let is_whole = shown.len() + sieve.held() == held + bytes.len();
                begins = before.map(|at| at + held as u64).filter(|_| is_whole);
                self.spool.push(stream, &shown);
            }
            _ => self.spool.push(stream, bytes),
        }
        let ends = self.spool.end(stream);
        if let Some(run) = self.run.as_deref_mut().filter(|_| stream == Stream::Stdout) {
            run.piece = Piece { begins, ends };
        }
    }

    /// What may have become a secret and did not.
    fn keep_rest(&mut self, stream: Stream) {
        if let Some(run) = self.run.as_deref_mut()
            && let Some(redactor) = &run.redactor
        {
            let rest = run.sieves[stream as usize].finish(redactor);
            if !rest.is_empty() {
                self.spool.push(stream, &rest);
            }
        }
    }

    pub(super) fn output_may_have_ended(&mut self) {
        let ended = self
            .run
            .as_deref()
            .is_some_and(|run| run.stdout.is_none() && run.stderr.is_none());
        if ended {
            self.events.push_back(Event::OutputEnded);
        }
    }

    pub(super) fn take_lines(&mut self, stream: Stream, bytes: &[u8]) {
        self.with_splitter(stream, |splitter, take| splitter.push(bytes, take));
    }

    /// A last line without an end.
    pub(super) fn flush_tail(&mut self, stream: Stream) {
        self.keep_rest(stream);
        let end = self.spool.end(stream);
        if let Some(run) = self.run.as_deref_mut().filter(|_| stream == Stream::Stdout) {
            (run.piece.begins, run.piece.ends) = (end, end);
        }
        self.with_splitter(stream, |splitter, take| splitter.finish(take));
    }

    pub(super) fn with_splitter(&mut self, stream: Stream, cut: impl FnOnce(&mut Splitter, &mut dyn FnMut(Cut<'_>))) {
        let at = self.clock.now();
        let Some(run) = &mut self.run else { return };
        let (redactor, has_server) = (run.redactor.clone(), run.web.is_some());
        let splitter = match stream {
            Stream::Stdout => &mut run.out,
            Stream::Stderr => &mut run.err,
        };
        // Its place is taken meanwhile: what a line says may change everything else.
        let mut own = std::mem::replace(splitter, Splitter::new(0));
        cut(&mut own, &mut |found| {
            self.log
                .push(stream, found.line, found.dropped, at, redactor.as_deref());
            if stream == Stream::Stderr {
                self.printed(found.line);
                self.speak(|dialect, step| dialect.complaint(found.line, step));
            } else if found.dropped > 0 {
                let bytes = found.line.len() as u64 + found.dropped;
                let text = format!("a line of {bytes} bytes was too long to be understood");
                self.host.told(News::Trouble(text));
            } else {
                if let Some(run) = &mut self.run {
                    let Piece { begins, ends } = run.piece;
                    run.line_end = begins.map(|at| at + found.end as u64).or(ends);
                }
                at_ease(found.line.len(), || match has_server {
                    true => self.printed(found.line),
                    false => self.speak(|dialect, step| dialect.line(found.line, step)),
                });
                if let Some(run) = &mut self.run {
                    run.line_end = None;
                }
            }
        });
        if let Some(run) = &mut self.run {
            match stream {
                Stream::Stdout => run.out = own,
                Stream::Stderr => run.err = own,
            }
        }
    }

    /// Whatever was said is said now, and what was begun has come to an end.
    pub(super) fn finish_output(&mut self) {
        if self.run.as_deref().is_none_or(|run| run.finished) {
            return;
        }
        for stream in [Stream::Stdout, Stream::Stderr] {
            self.flush_tail(stream);
        }
        self.hear_out();
        if let Some(run) = &mut self.run {
            (run.stdout, run.stderr, run.finished) = (None, None, true);
        }
        self.spool.flush();
        self.log.ring();
        let exit = self.machine.exit();
        self.speak(|dialect, step| {
            let exit = dialect::Exit {
                code: exit.and_then(|exit| exit.code),
                signal: exit.and_then(|exit| exit.signal),
            };
            dialect.finished(&exit, step);
        });
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, time::Duration};

    use super::*;

    #[test]
    fn whoever_has_little_to_do_does_not_wait_for_a_long_line() {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .build()
            .expect("a runtime");
        let line = runtime.spawn(async {
            let (send, receive) = mpsc::channel();
            // On the same only thread, and in its queue.
            tokio::spawn(async move { send.send(()) });
            at_ease(SHORT + 1, || receive.recv_timeout(Duration::from_secs(20)).is_ok())
        });
        assert!(runtime.block_on(line).expect("no panic"), "it was held up");
        let here = tokio::runtime::Builder::new_current_thread()
            .build()
            .expect("a runtime");
        assert_eq!(
            here.block_on(async { at_ease(SHORT + 1, || 7) }),
            7,
            "where there is only one thread"
        );
    }
}
