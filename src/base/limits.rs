use std::time::Duration;

/// Every bound in the house, with its default and the reason for it. Each is a key of `[limits]` in `gitstead.toml`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Bytes of an upload-pack request, after inflation. C git keeps 10 MiB (`http.maxRequestBuffer`); a client with very many haves needs more than its first megabyte.
    pub upload_request_bytes: u64,
    /// Object ids wanted by one fetch.
    pub wants: usize,
    /// Object ids offered as `have` by one request; repeated ones count once.
    pub haves: usize,
    /// `shallow` lines of one request: a client with a grafted history of a hundred thousand roots is somebody's experiment.
    pub shallows: usize,
    /// `ref-prefix` lines of one ls-refs; git itself ignores all of them beyond 65,535.
    pub ref_prefixes: usize,
    /// `server-option` or push-option lines of one request.
    pub options: usize,
    /// Bytes of the ref commands of one push (JGit's `receive.maxCommandBytes` is 3 MiB; 10,000 refs need about 1.5).
    pub command_bytes: usize,
    /// Ref commands of one push.
    pub commands: usize,
    /// Bytes of a pack that is pushed, unless the repository's `receive.maxInputSize` says another number.
    pub pack_bytes: u64,
    /// Objects of a pack that is pushed.
    pub pack_objects: u32,
    /// Bytes of one object after inflation.
    pub object_bytes: u64,
    /// Deltas from an object to its full base. git never writes more than 4,095.
    pub delta_depth: u32,
    /// Bytes of the trees or delta bases that one walk of history, or one push, keeps.
    pub delta_base_cache_bytes: usize,
    /// Bytes of answers to fetches and listings of refs that are kept for those who ask the same again.
    pub answer_cache_bytes: usize,
    /// Bytes of objects' contents that are kept inflated for all requests together.
    pub content_cache_bytes: usize,
    /// Bytes of objects that were compressed for answers and are kept for the next one.
    pub encoded_cache_bytes: usize,
    /// Bytes of objects above 8 MiB that all pushes together hold inflated while their deltas are resolved; pushes beyond it wait for one another. One object
    /// may be larger, and one push at a time may hold what it needs beside its first object.
    pub ingest_bytes: usize,
    /// Levels of trees in trees that are followed to find out whether a push is complete (git's own `core.maxTreeDepth`).
    pub tree_depth: u32,
    /// Objects asked about in one `object-info`.
    pub object_infos: usize,
    /// Bytes of a gzip request body for each byte that came over the wire: deflate cannot do better than about 1,030, text rarely does 50.
    pub inflate_ratio: u64,
    /// Threads that one request uses for hashing and delta resolution.
    pub threads_per_request: usize,
    /// Connections open at a time.
    pub connections: usize,
    /// Worker threads for long transfers.
    pub long_workers: usize,
    /// Worker threads for short work (advertisements, ref updates).
    pub short_workers: usize,
    /// Requests that wait for a worker before new ones are told to come back.
    pub queued: usize,
    /// Long transfers of one repository at a time.
    pub per_repository: usize,
    /// Time a push may wait for a workspace in which a checkpoint is being made.
    pub workspace_wait: Duration,
    /// Time a request may wait for its turn.
    pub queue_wait: Duration,
    /// Time for a client to send its request head.
    pub header_timeout: Duration,
    /// Time without one byte of a request body.
    pub read_idle: Duration,
    /// Time without the client taking one byte of a response.
    pub write_idle: Duration,
    /// Bytes per second that a client must send or take when it is waited for, averaged over the idle time. Slower than any line that git is used over; what
    /// stays below holds a worker for nothing.
    pub min_pace: u64,
    /// Time that running requests get after SIGTERM.
    pub drain: Duration,
    /// Repositories kept open.
    pub open_repositories: usize,
    /// Workspaces kept open and watched; each holds a few hundred bytes per file.
    pub open_workspaces: usize,
    /// Time after which a workspace that nobody asked for is not kept open any more.
    pub workspace_idle: Duration,
    /// Bytes of one line that an agent writes or is sent; of a longer one the beginning is looked at. Agents put whole files into a line: 20 MiB has been seen.
    pub agent_line_bytes: usize,
    /// Bytes of one text in an event of an agent; its transcript has the rest.
    pub agent_text_bytes: usize,
    /// Tool calls of one agent that are open at a time; real ones have a few dozen.
    pub agent_calls: usize,
    /// Questions of one agent (permissions, barriers, orders) that wait for an answer at a time.
    pub agent_pending: usize,
    /// Bytes of a text file that an agent reads through us, of what it asks for of it.
    pub agent_file_bytes: usize,
    /// Commands that one agent runs through us at a time, those included that have ended and that it has not let go.
    pub agent_terminals: usize,
    /// Bytes of the output of such a command that are kept, the newest; at most 512 KiB.
    pub agent_terminal_bytes: usize,
    /// Bytes of one file of an agent's output, of which each stream has its own; then the next one begins.
    pub agent_output_file_bytes: usize,
    /// Such files that are kept of each stream, the newest included.
    pub agent_output_files: usize,
    /// How long such a file is written to before the next one begins; zero for as long as there is room in it.
    pub agent_output_age: Duration,
    /// Agents that are known at a time, running or not. When there is no room for a new one, the one that ended first is forgotten.
    pub agents: usize,
    /// Agents that run at a time.
    pub agents_running: usize,
    /// Agents of one user that have not ended.
    pub agents_per_user: usize,
    /// How long an agent that has ended is known; zero for as long as there is room.
    pub agent_keep: Duration,
    /// Time that agents get to end after SIGTERM, all of them together, before they are killed.
    pub agent_drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            upload_request_bytes: 64 << 20,
            wants: 100_000,
            haves: 256_000,
            shallows: 100_000,
            ref_prefixes: 65_535,
            options: 1_000,
            command_bytes: 8 << 20,
            commands: 50_000,
            pack_bytes: 4 << 30,
            pack_objects: 50_000_000,
            object_bytes: 1 << 30,
            delta_depth: 4_095,
            delta_base_cache_bytes: 96 << 20,
            answer_cache_bytes: 64 << 20,
            content_cache_bytes: 64 << 20,
            encoded_cache_bytes: 64 << 20,
            ingest_bytes: 512 << 20,
            tree_depth: 2_048,
            object_infos: 10_000,
            inflate_ratio: 200,
            threads_per_request: 2,
            connections: 1_024,
            long_workers: 32,
            short_workers: 8,
            queued: 256,
            per_repository: 24,
            workspace_wait: Duration::from_secs(10),
            queue_wait: Duration::from_secs(20),
            header_timeout: Duration::from_secs(20),
            read_idle: Duration::from_secs(60),
            write_idle: Duration::from_secs(120),
            min_pace: 4 << 10,
            drain: Duration::from_secs(30),
            open_repositories: 256,
            open_workspaces: 64,
            workspace_idle: Duration::from_secs(15 * 60),
            agent_line_bytes: 32 << 20,
            agent_text_bytes: 1 << 20,
            agent_calls: 1_024,
            agent_pending: 256,
            agent_file_bytes: 4 << 20,
            agent_terminals: 64,
            agent_terminal_bytes: 512 << 10,
            agent_output_file_bytes: 16 << 20,
            agent_output_files: 4,
            agent_output_age: Duration::ZERO,
            agents: 2_000,
            agents_running: 1_500,
            agents_per_user: 1_000,
            agent_keep: Duration::ZERO,
            agent_drain: Duration::from_secs(20),
        }
    }
}
