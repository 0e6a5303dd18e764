use proptest::prelude::*;

use super::*;
use crate::agent::{Ladder, Restart, Watchdogs};

const SECOND: Duration = Duration::from_secs(1);

fn rules() -> Rules {
    Rules {
        ladder: Ladder::default(),
        restart: Restart::default(),
        watchdogs: Watchdogs::default(),
        handshake: true,
        interrupt: true,
        one_turn: false,
        total_cost: false,
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
fn what_would_end_the_same_way_is_not_started_again_until_somebody_does() {
    for mode in [RestartMode::OnFailure, RestartMode::Always] {
        let mut rules = rules();
        rules.restart.mode = mode;
        let mut machine = Machine::new(rules, 7);
        let failed = Event::LeaderEnded(Exit::of_code(1));
        let run = [Event::Start, Event::Up, failed, Event::TreeGone, Event::OutputEnded];
        after(&mut machine, &run);
        let orders = after(&mut machine, &[Event::Unfit, Event::Recorded]);
        assert_eq!(orders, ["Enter(Failed)"]);
        // The next time it is for another reason.
        after(&mut machine, &run);
        assert_eq!(after(&mut machine, &[Event::Recorded]), ["Enter(Restarting)"]);
    }
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

#[test]
fn whoever_wants_one_to_begin_anew_that_waits_for_that_need_not_wait() {
    let mut rules = rules();
    rules.restart.mode = RestartMode::Always;
    let mut machine = Machine::new(rules, 1);
    let end = [Event::Start, Event::Up, ENDED, Event::TreeGone, Event::OutputEnded];
    after(&mut machine, &end);
    assert_eq!(after(&mut machine, &[Event::Recorded]), ["Enter(Restarting)"]);
    let orders = after(&mut machine, &[Event::Stop(Cause::Restart)]);
    assert_eq!(orders, ["Spawn", "Enter(Starting)"]);
    assert_eq!(machine.cause(), None);
}

/// A machine whose turn has begun, with these watchdogs.
fn at_work(watch: impl FnOnce(&mut Rules)) -> Machine {
    let mut rules = rules();
    watch(&mut rules);
    let mut machine = Machine::new(rules, 1);
    let begin = [Event::Start, Event::Up, Event::SessionReady, Event::TurnStarted];
    after(&mut machine, &begin);
    machine
}

fn due(dog: Watchdog) -> Event {
    Event::Due(Timer::Dog(dog))
}

#[test]
fn one_that_does_not_hear_an_interrupt_is_stopped_and_one_that_does_is_not() {
    let dogs = |rules: &mut Rules| {
        rules.watchdogs.turn = Some((SECOND * 60, Reaction::Interrupt));
        rules.watchdogs.silence = Some((SECOND * 30, Reaction::Interrupt));
    };
    let mut machine = at_work(dogs);
    let orders = machine.on(due(Watchdog::Turn), SECOND);
    let patience = Ladder::default().interrupt;
    let heed = Order::Arm(Timer::Heed, patience);
    assert_eq!(orders, [Order::Warn(Watchdog::Turn), Order::Interrupt, heed]);
    // What another one wants has been asked for.
    assert_eq!(after(&mut machine, &[due(Watchdog::Silence)]), ["Warn(Silence)"]);
    // That it says something does not give it more time, and neither does a tool that ends.
    let talk = [
        Event::Output,
        Event::Tools { under_way: true },
        Event::Tools { under_way: false },
    ];
    for event in talk {
        let orders = machine.on(event, SECOND);
        let is_about = |order: &Order| matches!(order, Order::Arm(Timer::Heed, _) | Order::Disarm(Timer::Heed));
        assert!(!orders.iter().any(is_about), "{orders:?}");
    }
    let orders = after(&mut machine, &[Event::Due(Timer::Heed)]);
    assert_eq!(orders, ["Enter(Stopping)", "Interrupt"]);
    assert_eq!(machine.cause(), Some(Cause::Watchdog(Watchdog::Turn)));

    let mut machine = at_work(dogs);
    after(&mut machine, &[due(Watchdog::Turn)]);
    let orders = machine.on(Event::TurnEnded, SECOND);
    let off = Order::Disarm(Timer::Heed);
    assert!(
        orders.contains(&off) && orders.contains(&Order::Enter(State::Idle)),
        "{orders:?}"
    );
    let orders = after(&mut machine, &[Event::TurnStarted, due(Watchdog::Turn)]);
    assert_eq!(
        orders,
        ["Enter(Busy)", "Warn(Turn)", "Interrupt"],
        "the next turn is another"
    );
}

#[test]
fn a_tool_may_be_silent_for_longer_than_a_model() {
    let armed = |machine: &mut Machine, event| {
        let orders = machine.on(event, SECOND);
        let dogs = orders.into_iter().filter_map(|order| match order {
            Order::Arm(Timer::Dog(dog), _) => Some(Ok(dog)),
            Order::Disarm(Timer::Dog(dog)) => Some(Err(dog)),
            _ => None,
        });
        dogs.collect::<Vec<_>>()
    };
    let mut machine = at_work(|rules| {
        rules.watchdogs.silence = Some((SECOND, Reaction::Stop));
        rules.watchdogs.tool = Some((SECOND * 9, Reaction::Warn));
    });
    let (silence, tool) = (Watchdog::Silence, Watchdog::Tool);
    let begun = Event::Tools { under_way: true };
    assert_eq!(armed(&mut machine, begun), [Err(silence), Ok(tool)]);
    assert_eq!(armed(&mut machine, Event::Output), [Err(silence), Ok(tool)]);
    assert_eq!(after(&mut machine, &[due(silence), due(tool)]), ["Warn(Tool)"]);
    // After it, it is the model's move again, or the agent is stuck.
    let ended = Event::Tools { under_way: false };
    assert_eq!(armed(&mut machine, ended), [Err(tool), Ok(silence)]);
    assert_eq!(after(&mut machine, &[due(tool)]), [""; 0]);
    assert_eq!(
        after(&mut machine, &[due(silence)])[..2],
        ["Warn(Silence)", "Enter(Stopping)"]
    );
}

#[test]
fn one_that_has_had_its_only_turn_is_to_end() {
    let linger = |one_turn| {
        let mut machine = at_work(|rules| {
            rules.one_turn = one_turn;
            rules.watchdogs.linger = Some((SECOND, Reaction::Stop));
        });
        after(&mut machine, &[Event::TurnEnded, due(Watchdog::Linger)])
    };
    assert_eq!(linger(true)[..3], ["Enter(Idle)", "Warn(Linger)", "Enter(Stopping)"]);
    assert_eq!(linger(false), ["Enter(Idle)"], "it waits for its next turn");
    // Something that ran in the background has come to an end, and it goes on.
    let mut machine = at_work(|rules| rules.one_turn = true);
    after(&mut machine, &[Event::TurnEnded]);
    let off = Order::Disarm(Timer::Dog(Watchdog::Linger));
    assert!(machine.on(Event::TurnStarted, SECOND).contains(&off));
}

#[test]
fn turns_and_money_have_bounds() {
    let turns = |reaction| {
        let mut machine = at_work(|rules| rules.watchdogs.turns = Some((1, reaction)));
        after(&mut machine, &[Event::TurnEnded, Event::TurnStarted])
    };
    assert_eq!(turns(Reaction::Warn)[1..], ["Enter(Busy)", "Warn(Turns)"]);
    assert_eq!(
        turns(Reaction::Interrupt)[1..],
        ["Enter(Busy)", "Warn(Turns)", "Interrupt"]
    );
    assert_eq!(turns(Reaction::Stop)[2..4], ["Warn(Turns)", "Enter(Stopping)"]);

    let spend = |total, costs: [u64; 2], reaction| {
        let mut machine = at_work(|rules| {
            rules.total_cost = total;
            rules.watchdogs.cost = Some((100, reaction));
        });
        let first = after(&mut machine, &[Event::Spent(costs[0]), Event::TurnEnded]);
        assert_eq!(first, ["Enter(Idle)"]);
        after(
            &mut machine,
            &[
                Event::TurnStarted,
                Event::Spent(costs[1]),
                Event::TurnEnded,
                Event::TurnStarted,
            ],
        )
    };
    let stopped = spend(false, [60, 60], Reaction::Stop);
    assert_eq!(stopped[..3], ["Enter(Busy)", "Warn(Cost)", "Enter(Stopping)"]);
    let within = spend(true, [60, 60], Reaction::Stop);
    assert_eq!(within, ["Enter(Busy)", "Enter(Idle)", "Enter(Busy)"], "sixty in all");
    let interrupted = spend(true, [60, 120], Reaction::Interrupt);
    assert_eq!(
        interrupted[2..],
        ["Enter(Busy)", "Warn(Cost)", "Interrupt"],
        "what comes next"
    );
}

#[test]
fn a_workspace_that_holds_too_much_is_told_of_interrupted_or_stopped() {
    let dog = |reaction, events: &[Event]| {
        let mut machine = at_work(|rules| rules.watchdogs.disk = Some((100, reaction)));
        assert_eq!(after(&mut machine, &[Event::Holds(100)]), [""; 0], "as much as it may");
        after(&mut machine, events)
    };
    let (over, within) = (Event::Holds(101), Event::Holds(1));
    let told = dog(Reaction::Warn, &[over, over, within, over]);
    assert_eq!(told, ["Warn(Disk)", "Warn(Disk)"], "once for each time");
    let stopped = dog(Reaction::Stop, &[over]);
    assert_eq!(stopped[..2], ["Warn(Disk)", "Enter(Stopping)"]);
    let interrupted = dog(
        Reaction::Interrupt,
        &[over, over, Event::TurnEnded, over, Event::TurnStarted, over],
    );
    let expected = [
        "Warn(Disk)",
        "Interrupt",
        "Enter(Idle)",
        "Enter(Busy)",
        "Warn(Disk)",
        "Interrupt",
    ];
    assert_eq!(interrupted, expected, "while it waits there is nothing to interrupt");
}

#[test]
fn a_stop_that_comes_after_the_end_or_beside_a_watchdog_is_one() {
    for cause in [Cause::Asked, Cause::Shutdown] {
        let mut rules = rules();
        rules.restart.mode = RestartMode::Always;
        rules.watchdogs.turn = Some((SECOND, Reaction::Stop));
        // Its last checkpoint is being made.
        let mut machine = Machine::new(rules, 1);
        let end = [Event::Start, Event::Up, ENDED, Event::TreeGone, Event::OutputEnded];
        after(&mut machine, &end);
        after(&mut machine, &[Event::Stop(cause), Event::Recorded]);
        assert_eq!((machine.state(), machine.cause()), (State::Stopped, Some(cause)));
        // Another reason came first.
        let mut machine = Machine::new(rules, 1);
        let begin = [Event::Start, Event::Up, Event::SessionReady, Event::TurnStarted];
        after(&mut machine, &begin);
        let end = [ENDED, Event::TreeGone, Event::OutputEnded, Event::Recorded];
        after(&mut machine, &[due(Watchdog::Turn), Event::Stop(cause)]);
        after(&mut machine, &end);
        assert_eq!((machine.state(), machine.cause()), (State::Stopped, Some(cause)));
        // Whoever starts it again begins anew.
        after(&mut machine, &[Event::Start, Event::Up]);
        after(&mut machine, &end);
        assert_eq!(machine.state(), State::Restarting);
    }
}

#[test]
fn one_that_begins_anew_again_and_again_is_given_up_all_the_same() {
    let mut rules = rules();
    (rules.restart.mode, rules.restart.burst) = (RestartMode::OnFailure, 3);
    let mut machine = Machine::new(rules, 1);
    after(&mut machine, &[Event::Start]);
    let failed = Event::LeaderEnded(Exit::of_code(1));
    let end = [failed, Event::TreeGone, Event::OutputEnded, Event::Recorded];
    for _ in 0..3 {
        // It fails; and what it is gone on with then is of no use.
        after(&mut machine, &[Event::Up]);
        after(&mut machine, &end);
        after(&mut machine, &[Event::Due(Timer::Backoff), Event::Up, Event::Again]);
        after(&mut machine, &end);
    }
    assert_eq!(machine.state(), State::CrashLooping);
}

fn any_event() -> impl Strategy<Value = Event> {
    let cause = prop_oneof![
        Just(Cause::Asked),
        Just(Cause::Restart),
        Just(Cause::Shutdown),
        Just(Cause::Orphaned),
    ];
    let exit = prop_oneof![Just(Exit::of_code(0)), Just(Exit::of_code(1))];
    let dog = proptest::sample::select(&Watchdog::TIMED[..]);
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
        Just(Event::Due(Timer::Heed)),
        dog.prop_map(|dog| Event::Due(Timer::Dog(dog))),
        exit.clone().prop_map(Event::LeaderEnded),
        Just(Event::TreeGone),
        Just(Event::ParentLost),
        Just(Event::OutputEnded),
        Just(Event::Recorded),
        any::<bool>().prop_map(|under_way| Event::Tools { under_way }),
        (0u64..200).prop_map(Event::Spent),
        (0u64..5).prop_map(Event::Holds),
        (proptest::option::of(exit), any::<bool>()).prop_map(|(exit, orphaned)| Event::Adopted { exit, orphaned }),
    ]
}

fn any_rules() -> impl Strategy<Value = Rules> {
    let time = || prop_oneof![Just(Duration::ZERO), Just(SECOND), Just(SECOND * 7)];
    let reaction = || prop_oneof![Just(Reaction::Warn), Just(Reaction::Interrupt), Just(Reaction::Stop)];
    let bound = move || proptest::option::of((time(), reaction()));
    let most = move || proptest::option::of((0u64..3, reaction()));
    let ladder = (time(), time(), time(), time()).prop_map(|(interrupt, end_of_input, terminate, verify)| Ladder {
        interrupt,
        end_of_input,
        terminate,
        verify,
    });
    let mode = prop_oneof![
        Just(RestartMode::Never),
        Just(RestartMode::OnFailure),
        Just(RestartMode::Always)
    ];
    let restart = (mode, 0usize..5, time(), time()).prop_map(|(mode, burst, stable, window)| Restart {
        mode,
        burst,
        stable,
        window,
        ..Restart::default()
    });
    let timed = (bound(), bound(), bound(), bound(), bound(), bound(), bound());
    let dogs = (timed, most(), most(), most()).prop_map(
        |((start, silence, tool, permission, turn, linger, wall), turns, cost, disk)| Watchdogs {
            start,
            silence,
            tool,
            permission,
            turn,
            linger,
            wall,
            turns,
            cost,
            disk,
        },
    );
    let yes = any::<bool>;
    (ladder, restart, dogs, yes(), yes(), yes(), yes()).prop_map(
        |(ladder, restart, watchdogs, handshake, interrupt, one_turn, total_cost)| Rules {
            ladder,
            restart,
            watchdogs,
            handshake,
            interrupt,
            one_turn,
            total_cost,
            record: SECOND,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn whatever_happens_every_run_has_one_end_and_every_end_a_last_checkpoint(
        events in proptest::collection::vec(any_event(), 0..60),
        rules in any_rules(),
        begin in prop_oneof![Just(State::Created), Just(State::Ready), Just(State::Failed)],
    ) {
        let mut machine = Machine::at(rules, begin, 3);
        let mut armed = std::collections::BTreeSet::new();
        // One that is taken up is told of by others, in their time.
        let mut told_by_others = begin == State::Ready;
        let mut running = begin == State::Ready;
        let (mut recorded, mut failed, mut up) = (false, false, false);
        let mut now = Duration::ZERO;
        let mut check = |machine: &mut Machine, event: Event, now: Duration| {
            failed |= matches!(event, Event::SpawnFailed { .. });
            if let Event::Due(timer) = event {
                armed.remove(&timer);
            }
            for order in machine.on(event, now) {
                match order {
                    Order::Arm(timer, _) => {
                        armed.insert(timer);
                    }
                    Order::Disarm(timer) => {
                        armed.remove(&timer);
                    }
                    Order::Spawn => {
                        prop_assert!(!running, "two at a time");
                        told_by_others = false;
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
            if machine.state() == State::Stopping && !told_by_others {
                prop_assert!(armed.contains(&Timer::Rung), "it is being stopped, and nobody looks how far that is");
            }
            if machine.state() == State::Restarting {
                prop_assert!(armed.contains(&Timer::Backoff));
            }
            if machine.state().is_over() || machine.state() == State::Restarting {
                let dogs = armed.iter().any(|timer| matches!(timer, Timer::Dog(_) | Timer::Heed));
                prop_assert!(!dogs, "a watchdog of nobody: {armed:?}");
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
