use proptest::prelude::*;

use super::*;
use crate::agent::{Ladder, Watchdogs};

const SECOND: Duration = Duration::from_secs(1);

fn rules() -> Rules {
    Rules {
        ladder: Ladder::default(),
        restart: Restart::default(),
        watchdogs: Watchdogs::default(),
        handshake: true,
        interrupt: true,
        record: SECOND,
    }
}

/// What the machine says to these events, as text.
fn after(machine: &mut Machine, events: &[Event]) -> Vec<String> {
    let mut all = Vec::new();
    for event in events {
        for order in machine.on(*event, SECOND) {
            if !matches!(order, Order::Arm(..) | Order::Disarm(_)) {
                all.push(format!("{order:?}"));
            }
        }
    }
    all
}

fn up() -> Machine {
    let mut machine = Machine::new(rules(), 7);
    let orders = after(&mut machine, &[Event::Start, Event::Up, Event::SessionReady]);
    assert_eq!(orders, ["Spawn", "Enter(Starting)", "Enter(Ready)"]);
    machine
}

const ENDED: Event = Event::LeaderEnded(Exit {
    code: Some(0),
    signal: None,
    core: false,
});

#[test]
fn a_run_ends_after_its_last_checkpoint_and_not_before() {
    let mut machine = up();
    let orders = after(
        &mut machine,
        &[Event::TurnStarted, Event::TurnEnded, ENDED, Event::TreeGone],
    );
    assert_eq!(orders, ["Enter(Busy)", "Enter(Idle)"], "its output may go on");
    assert_eq!(after(&mut machine, &[Event::OutputEnded]), ["Record"]);
    assert_eq!(machine.state(), State::Idle);
    assert_eq!(after(&mut machine, &[Event::Recorded]), ["Enter(Exited)"]);
    assert_eq!(
        after(&mut machine, &[Event::Recorded, Event::TreeGone, ENDED, Event::Up]),
        [""; 0]
    );
}

#[test]
fn the_ladder_is_climbed_step_by_step() {
    let mut machine = up();
    after(&mut machine, &[Event::TurnStarted]);
    let due = Event::Due(Timer::Rung);
    let steps = [Event::Stop(Cause::Asked), due, due, due];
    let orders = after(&mut machine, &steps);
    assert_eq!(
        orders,
        ["Enter(Stopping)", "Interrupt", "CloseInput", "Terminate", "KillTree"]
    );
    // Its parent process does not answer; then nothing does.
    assert_eq!(after(&mut machine, &[due]), ["Hunt"]);
    assert_eq!(after(&mut machine, &[due, due]), ["Record"]);
    assert_eq!(after(&mut machine, &[due]), ["Enter(Stopped)"]);
}

#[test]
fn who_asks_again_is_in_a_hurry() {
    let mut machine = up();
    let stop = Event::Stop(Cause::Asked);
    let orders = after(&mut machine, &[stop, stop, stop, stop, stop]);
    assert_eq!(
        orders,
        ["Enter(Stopping)", "Interrupt", "CloseInput", "Terminate", "KillTree"]
    );
    let mut machine = up();
    let orders = after(
        &mut machine,
        &[stop, Event::Kill(Cause::Asked), Event::Kill(Cause::Asked)],
    );
    assert_eq!(orders, ["Enter(Stopping)", "Interrupt", "KillTree"]);
    // Heard is heard: nobody has to wait for the rest of that time.
    let mut machine = up();
    let orders = after(&mut machine, &[stop, Event::TurnEnded]);
    assert_eq!(orders, ["Enter(Stopping)", "Interrupt", "CloseInput"]);
}

#[test]
fn a_step_without_time_is_followed_at_once() {
    let mut rules = rules();
    rules.interrupt = false;
    rules.ladder.end_of_input = Duration::ZERO;
    let mut machine = Machine::new(rules, 1);
    after(&mut machine, &[Event::Start, Event::Up, Event::SessionReady]);
    let orders = after(&mut machine, &[Event::Stop(Cause::Asked)]);
    assert_eq!(orders, ["Enter(Stopping)", "CloseInput", "Terminate"]);
}

#[test]
fn a_stop_before_it_runs_reaches_it_when_it_does() {
    let mut machine = Machine::new(rules(), 1);
    after(&mut machine, &[Event::Start, Event::Stop(Cause::Asked)]);
    assert_eq!(after(&mut machine, &[Event::Up]), ["Terminate"]);
    let mut machine = Machine::new(rules(), 1);
    after(&mut machine, &[Event::Start, Event::Kill(Cause::Asked)]);
    assert_eq!(after(&mut machine, &[Event::Up]), ["KillTree"]);
}

#[test]
fn what_cannot_be_started_is_not_tried_again() {
    let mut rules = rules();
    rules.restart.mode = RestartMode::Always;
    let mut machine = Machine::new(rules, 1);
    let failed = Event::SpawnFailed { passing: false };
    assert_eq!(after(&mut machine, &[Event::Start, failed])[2..], ["Enter(Failed)"]);
    let passing = Event::SpawnFailed { passing: true };
    assert_eq!(
        after(&mut machine, &[Event::Start, passing])[2..],
        ["Enter(Restarting)"]
    );
}

#[test]
fn restarts_wait_longer_and_longer_until_they_are_given_up() {
    let mut rules = rules();
    rules.restart.mode = RestartMode::OnFailure;
    rules.restart.burst = 4;
    let mut machine = Machine::new(rules, 99);
    machine.on(Event::Start, Duration::ZERO);
    let failed = Event::LeaderEnded(Exit::of_code(1));
    let mut waits = Vec::new();
    let mut now = Duration::ZERO;
    for _ in 0..4 {
        for event in [Event::Up, failed, Event::TreeGone, Event::OutputEnded, Event::Recorded] {
            for order in machine.on(event, now) {
                if let Order::Arm(Timer::Backoff, wait) = order {
                    waits.push(wait);
                }
            }
        }
        now += SECOND;
        machine.on(Event::Due(Timer::Backoff), now);
    }
    assert_eq!(machine.state(), State::CrashLooping);
    assert_eq!(waits.len(), 3);
    for (n, wait) in waits.iter().enumerate() {
        let usual = SECOND * 2u32.pow(u32::try_from(n).expect("small"));
        assert!(*wait >= usual && *wait <= usual.mul_f64(1.25), "{waits:?}");
    }
    // Somebody who starts it again begins anew.
    machine.on(Event::Start, now);
    assert_eq!(machine.state(), State::Starting);
}

#[test]
fn a_stop_while_it_waits_to_be_started_again_is_its_end() {
    let mut rules = rules();
    rules.restart.mode = RestartMode::Always;
    let mut machine = Machine::new(rules, 1);
    after(
        &mut machine,
        &[Event::Start, Event::Up, ENDED, Event::TreeGone, Event::OutputEnded],
    );
    assert_eq!(after(&mut machine, &[Event::Recorded]), ["Enter(Restarting)"]);
    assert_eq!(after(&mut machine, &[Event::Stop(Cause::Asked)]), ["Enter(Stopped)"]);
    assert_eq!(after(&mut machine, &[Event::Due(Timer::Backoff)]), [""; 0]);
}

#[test]
fn what_nobody_saw_is_lost_and_what_was_recorded_is_told() {
    let adopted = |exit, orphaned| {
        let mut machine = Machine::at(rules(), State::Busy, 1);
        assert_eq!(machine.state(), State::Stopping);
        let orders = after(&mut machine, &[Event::Adopted { exit, orphaned }, Event::Recorded]);
        assert_eq!(orders[0], "Record");
        machine.state()
    };
    assert_eq!(adopted(None, false), State::Lost);
    assert_eq!(adopted(Some(Exit::of_code(0)), false), State::Exited);
    assert_eq!(adopted(Some(Exit::of_code(7)), false), State::Failed);
    assert_eq!(adopted(Some(Exit::of_code(0)), true), State::Stopped);
    assert_eq!(Machine::at(rules(), State::Exited, 1).state(), State::Exited);
}

#[test]
fn one_that_is_taken_up_can_be_hurried() {
    let mut machine = Machine::at(rules(), State::Busy, 1);
    let stop = Event::Stop(Cause::Asked);
    assert_eq!(after(&mut machine, &[stop]), ["HurryOrphan { at_once: false }"]);
    let orders = after(&mut machine, &[Event::Kill(Cause::Asked)]);
    assert_eq!(orders, ["HurryOrphan { at_once: true }"]);
    // Not even that helps.
    assert_eq!(after(&mut machine, &[Event::Due(Timer::Rung)]), ["Hunt"]);
    let late = Event::Adopted {
        exit: None,
        orphaned: true,
    };
    assert_eq!(after(&mut machine, &[late]), [""; 0], "it is being hunted");
    assert_eq!(
        after(&mut machine, &[Event::TreeGone, Event::Recorded])[1..],
        ["Enter(Stopped)"]
    );
    assert_eq!(machine.cause(), Some(Cause::Asked));
}

#[test]
fn one_that_always_runs_is_started_again_after_its_server_was_gone_but_not_for_ever() {
    let adopted = |mode, cause: Option<Event>, ends: usize| {
        let mut rules = rules();
        (rules.restart.mode, rules.restart.burst) = (mode, 3);
        let ends = vec![Duration::ZERO; ends];
        let mut machine = Machine::at(rules, State::Busy, 1).having_ended(ends);
        let gone = Event::Adopted {
            exit: Some(Exit::of_code(0)),
            orphaned: true,
        };
        let events: Vec<_> = cause.into_iter().chain([gone, Event::Recorded]).collect();
        after(&mut machine, &events);
        machine.state()
    };
    assert_eq!(adopted(RestartMode::Never, None, 0), State::Stopped);
    assert_eq!(adopted(RestartMode::OnFailure, None, 0), State::Stopped);
    assert_eq!(adopted(RestartMode::Always, None, 0), State::Restarting);
    assert_eq!(adopted(RestartMode::Always, None, 1), State::Restarting);
    assert_eq!(adopted(RestartMode::Always, None, 2), State::CrashLooping);
    let stop = Event::Stop(Cause::Asked);
    assert_eq!(adopted(RestartMode::Always, Some(stop), 0), State::Stopped);
}

#[test]
fn a_watchdog_barks_only_when_it_concerns_it() {
    let mut rules = rules();
    rules.watchdogs.silence = Some((SECOND, Reaction::Interrupt));
    rules.watchdogs.turn = Some((SECOND, Reaction::Stop));
    let mut machine = Machine::new(rules, 1);
    let silence = Event::Due(Timer::Dog(Watchdog::Silence));
    let turn = Event::Due(Timer::Dog(Watchdog::Turn));
    after(&mut machine, &[Event::Start, Event::Up, Event::SessionReady]);
    assert_eq!(after(&mut machine, &[silence, turn]), [""; 0], "it has nothing to do");
    after(&mut machine, &[Event::TurnStarted]);
    assert_eq!(after(&mut machine, &[silence]), ["Warn(Silence)", "Interrupt"]);
    assert_eq!(
        after(&mut machine, &[turn]),
        ["Warn(Turn)", "Enter(Stopping)", "Interrupt"]
    );
    let end = [ENDED, Event::TreeGone, Event::OutputEnded, Event::Recorded];
    assert_eq!(after(&mut machine, &end), ["Record", "Enter(Failed)"]);
}

#[test]
fn one_that_was_started_with_what_is_of_no_use_is_started_again_once_it_has_ended() {
    for late in [false, true] {
        let mut machine = Machine::new(rules(), 1);
        after(&mut machine, &[Event::Start, Event::Up]);
        let before: &[Event] = match late {
            false => &[Event::Again, ENDED, Event::TreeGone],
            true => &[ENDED, Event::TreeGone, Event::Again],
        };
        after(&mut machine, before);
        let orders = after(&mut machine, &[Event::OutputEnded, Event::Recorded]);
        assert_eq!(
            orders[orders.len() - 4..],
            ["Record", "Enter(Restarting)", "Spawn", "Enter(Starting)"],
            "{late}"
        );
    }
    // Somebody wants it stopped: that counts more.
    let mut machine = Machine::new(rules(), 1);
    after(
        &mut machine,
        &[Event::Start, Event::Up, Event::Stop(Cause::Asked), Event::Again],
    );
    after(
        &mut machine,
        &[ENDED, Event::TreeGone, Event::OutputEnded, Event::Recorded],
    );
    assert_eq!(machine.state(), State::Stopped);
}

fn any_event() -> impl Strategy<Value = Event> {
    let cause = prop_oneof![Just(Cause::Asked), Just(Cause::Restart), Just(Cause::Shutdown)];
    let exit = prop_oneof![Just(Exit::of_code(0)), Just(Exit::of_code(1))];
    let dog = prop_oneof![
        Just(Watchdog::Start),
        Just(Watchdog::Silence),
        Just(Watchdog::Turn),
        Just(Watchdog::Wall)
    ];
    prop_oneof![
        Just(Event::Start),
        Just(Event::Up),
        any::<bool>().prop_map(|passing| Event::SpawnFailed { passing }),
        Just(Event::SessionReady),
        Just(Event::TurnStarted),
        Just(Event::TurnEnded),
        Just(Event::PermissionAsked),
        Just(Event::PermissionsGone),
        Just(Event::Output),
        Just(Event::Again),
        cause.clone().prop_map(Event::Stop),
        cause.prop_map(Event::Kill),
        Just(Event::Due(Timer::Rung)),
        Just(Event::Due(Timer::Backoff)),
        dog.prop_map(|dog| Event::Due(Timer::Dog(dog))),
        exit.prop_map(Event::LeaderEnded),
        Just(Event::TreeGone),
        Just(Event::ParentLost),
        Just(Event::OutputEnded),
        Just(Event::Recorded),
        any::<bool>().prop_map(|orphaned| Event::Adopted { exit: None, orphaned }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn whatever_happens_every_run_has_one_end_and_every_end_a_last_checkpoint(
        events in proptest::collection::vec(any_event(), 0..60),
        mode in prop_oneof![Just(RestartMode::Never), Just(RestartMode::OnFailure), Just(RestartMode::Always)],
        handshake: bool,
        interrupt: bool,
        begin in prop_oneof![Just(State::Created), Just(State::Ready), Just(State::Failed)],
    ) {
        let mut rules = rules();
        (rules.restart.mode, rules.handshake, rules.interrupt) = (mode, handshake, interrupt);
        let mut machine = Machine::at(rules, begin, 3);
        let mut running = begin == State::Ready;
        let (mut recorded, mut failed, mut up) = (false, false, false);
        let mut now = Duration::ZERO;
        let mut check = |machine: &mut Machine, event: Event, now: Duration| {
            failed |= matches!(event, Event::SpawnFailed { .. });
            for order in machine.on(event, now) {
                match order {
                    Order::Spawn => {
                        prop_assert!(!running, "two at a time");
                        (running, recorded, failed, up) = (true, false, false, false);
                    }
                    Order::Record => {
                        prop_assert!(running && !recorded, "one last checkpoint");
                        recorded = true;
                    }
                    Order::Enter(State::Restarting) => {
                        prop_assert!(running && (recorded || failed));
                        running = false;
                    }
                    Order::Enter(state) if state.is_over() => {
                        prop_assert!(!running || recorded || failed, "{state:?}");
                        running = false;
                    }
                    Order::Enter(State::Ready) => {
                        prop_assert!(!up, "ready once");
                        up = true;
                    }
                    Order::Terminate | Order::KillTree | Order::Interrupt | Order::CloseInput => {
                        prop_assert!(running, "{order:?} of nobody");
                    }
                    _ => {}
                }
            }
            Ok(())
        };
        for event in events {
            now += SECOND;
            check(&mut machine, event, now)?;
        }
        // From anywhere a kill comes to an end by the passing of time alone.
        check(&mut machine, Event::Kill(Cause::Asked), now)?;
        for _ in 0..12 {
            now += SECOND;
            check(&mut machine, Event::Due(Timer::Rung), now)?;
        }
        let ended = machine.state().is_over() || machine.state() == State::Created;
        // A restart that was asked for is one after the end of the old one.
        let again = matches!(machine.state(), State::Starting | State::Restarting);
        prop_assert!(ended || again, "{:?}", machine.state());
    }
}
