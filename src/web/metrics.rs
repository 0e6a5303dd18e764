//! `/metrics`: what is counted and what waits, as Prometheus reads it (text format 0.0.4), for this machine and for whoever has a token or a name.

use std::{fmt::Write as _, sync::Arc, time::Duration};

use axum::{Extension, extract::State, http::header, response::IntoResponse as _};

use super::{
    api::{Answer, Api, ApiError},
    house::Caller,
};
use crate::{session::resident, worker::Stats};

/// How long a worker is waited for that looks what memory agents have. Without one the rest is told: whoever asks wants to know just then how busy it is.
const WORKER: Duration = Duration::from_secs(2);

/// Adds what one metric says, and what it is for each value of its label.
fn metric(out: &mut String, name: &str, kind: &str, says: &str, lines: &[(&str, u64)]) {
    let _ = writeln!(out, "# HELP {name} {says}\n# TYPE {name} {kind}");
    for (label, value) in lines {
        let _ = writeln!(out, "{name}{label} {value}");
    }
}

fn workers(out: &mut String, stats: &Stats) {
    let number = |size: usize| u64::try_from(size).unwrap_or(u64::MAX);
    let lanes = [
        ("{lane=\"long\"}", number(stats.long_running)),
        ("{lane=\"short\"}", number(stats.short_running)),
    ];
    metric(
        out,
        "gitstead_worker_jobs",
        "gauge",
        "Jobs that worker threads are at.",
        &lanes,
    );
    let says = "Work that waits for a worker thread.";
    metric(
        out,
        "gitstead_worker_queue",
        "gauge",
        says,
        &[("", number(stats.waiting))],
    );
    let says = "Work that was refused because there was no room.";
    metric(
        out,
        "gitstead_worker_refused_total",
        "counter",
        says,
        &[("", stats.refused)],
    );
    let says = "Jobs that ended by a defect of ours.";
    metric(
        out,
        "gitstead_worker_panics_total",
        "counter",
        says,
        &[("", stats.panics)],
    );
}

pub(super) async fn metrics(State(api): State<Arc<Api>>, Extension(who): Extension<Caller>) -> Answer {
    if !who.local && who.user().is_none() {
        return Err(ApiError::unknown());
    }
    let agents = api.agents.as_ref().map(|doors| doors.agents.clone());
    let own = i32::try_from(std::process::id()).unwrap_or(0);
    let looking = api.work(move |_| Ok((agents.map(|agents| agents.weigh()), resident(own))));
    let (weighed, own) = match tokio::time::timeout(WORKER, looking).await {
        Ok(Ok(found)) => found,
        _ => (None, None),
    };
    let mut text = String::new();
    let is_there = u64::from(api.agents.is_some());
    let says = "Whether this server runs agents.";
    metric(&mut text, "gitstead_agents_served", "gauge", says, &[("", is_there)]);
    if let Some(doors) = &api.agents {
        text.push_str(&doors.agents.metrics(weighed));
    }
    if let Some(desk) = &api.ask {
        text.push_str(&desk.metrics());
    }
    workers(&mut text, &api.house.workers.stats());
    if let Some(own) = own {
        let says = "Resident memory size in bytes.";
        metric(&mut text, "process_resident_memory_bytes", "gauge", says, &[("", own)]);
    }
    let kind = [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
    Ok((kind, text).into_response())
}
