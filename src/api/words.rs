//! The sentences that refuse bad input, and the bounds they speak of. One place, because the API server and
//! the command line must say the same.

/// Bounds of the resources, each with its reason.
pub mod limits {
    /// Probes of one game day. Each is a request every second or so; a person cannot watch more.
    pub const PROBES: u32 = 16;
    /// Experiments of one game day: a morning's work.
    pub const EXPERIMENTS: u32 = 20;
    /// Targets of one game day at once. A target takes about 400 bytes of the run's status, and an object in
    /// etcd at most 1.5 MiB.
    pub const TARGETS: i32 = 500;
    /// Entries kept of a run's record: the first and the last halves of more than this many are kept.
    pub const ENTRIES: usize = 256;
    /// Bytes of what somebody else says (the API server, a node, a web server's answer) that are kept in one place of a
    /// record: enough for a sentence and its reason, and all targets together stay below what etcd takes.
    pub const WORDS: usize = 512;
    /// Labels or expressions of one selector.
    pub const SELECTOR_TERMS: u32 = 16;
    /// Characters of a game day's name: a run's name adds a dash and twelve digits, and must fit in a label (63).
    pub const NAME: usize = 50;
    /// Longest hold, in milliseconds: longer is not a game day but a change.
    pub const HOLD_MS: u64 = 24 * 3_600_000;
    /// Shortest time between two samples: the cost of a probe must stay small beside what it watches.
    pub const EVERY_MIN_MS: u64 = 100;
    /// Shortest time between two rounds of a repeated fault.
    pub const ROUND_MIN_MS: u64 = 1_000;
    /// Finished runs kept of one game day.
    pub const KEEP: i32 = 200;
    /// Runs at once under one guardrail: more than a hundred is no limit. A slot takes about 200 bytes of the
    /// guardrail's status.
    pub const RUNS: i32 = 100;
    /// Runs that one guardrail's status lists as waiting. Further ones wait without a place until there is one.
    pub const QUEUE: u32 = 200;
    /// Approvals, answers or notes of one run: what people say in a morning.
    pub const SAID: u32 = 64;
    /// Longest wait for an answer to a gate, in milliseconds: a day.
    pub const GATE_MS: u64 = 24 * 3_600_000;
    /// Opening hours or freezes of one guardrail: a freeze a week for a year, and a dozen more.
    pub const WINDOWS: u32 = 64;
    /// Alerts of one guardrail. Each is a query a second while a fault is held.
    pub const ALERTS: u32 = 16;
    /// Bounds of fault values in one guardrail: a few for each fault.
    pub const VALUES: u32 = 64;
    /// Images recorded of one experiment's targets: all containers of a few workloads.
    pub const IMAGES: u32 = 64;
    /// Stages from narrow to wide: one pod, a tenth, a quarter, half, and a few in between.
    pub const STAGES: u32 = 8;
}

/// What is said of bad input. Used by the parser, by admission and by CEL rules.
pub mod says {
    pub const DURATION: &str = "a duration is written like 500ms, 30s, 5m or 1m30s";
    pub const PERCENT: &str = "a percentage is a whole number from 1 to 100";
    pub const CHANCE: &str = "a percentage of packets is above 0 and at most 100";
    pub const FILES: &str = "give delay, error, or both; or rate";
    pub const FILES_RATE: &str = "a rate goes without delay and error, and is of the operation access: operations: [access]";
    pub const BLOCK: &str = "a block is a multiple of 4096 bytes, at most 16 MiB";
    pub const BYTES: &str = "bytes are a whole number, or written like 64Ki, 256Mi or 2Gi";
    pub const RATE: &str = "a rate is written like 500kbit, 10Mbit or 1Gbit";
    pub const CIDR: &str = "an address or a range of them is written like 10.1.2.3, 10.0.0.0/8 or fd00::/8";
    pub const ONE_NETWORK: &str =
        "network does something to packets (delay, loss, duplicate, corrupt, rate) or is a partition, not both";
    pub const NEEDS_DELAY: &str = "jitter and reorder need a delay";
    pub const NEEDS_JITTER: &str = "distribution and correlation need jitter";
    pub const NEEDS_LOSS: &str = "burst needs loss";
    pub const NEEDS_CORRUPT: &str = "undetected needs corrupt";
    pub const ONE_PEER: &str = "each of to and except names at most one of cidr, pods, service, dns";
    pub const ONE_FAULT: &str = "an experiment injects exactly one fault: name one of podKill, podEvict, scale, cordon, network, cpu, memory, diskFill, diskIo, files, processes, pause, containerKill";
    pub const ONE_TARGET: &str = "targets names exactly one of pods, nodes, workload";
    pub const ONE_CHOICE: &str = "choose names exactly one of count, percent";
    pub const ONE_PROBE: &str = "a probe is exactly one of http, tcp, workload";
    pub const ONE_SCALE: &str = "scale names exactly one of replicas, percent";
    pub const ONE_READY: &str = "ready names exactly one of count, percent";
    pub const EVERYTHING: &str = "an empty selector would select everything: name at least one label";
    pub const NOBODY: &str = "choose.count: 0 is nobody; ask for at least 1";
    pub const URL: &str = "an http probe needs a URL like http://checkout.shop.svc/healthz, with http or https and a host";
    pub const ADDRESS: &str = "a tcp probe needs an address like postgres.shop.svc:5432";
    pub const NAME: &str = "a game day's name has at most 50 characters: a run's name adds the minute to it";
    pub const FROZEN: &str = "a run is a frozen copy: change the game day and start another run, or set stop to end this one";
    pub const STOP_STAYS: &str = "a stopped run stays stopped: start another";
    pub const CORD_STAYS: &str = "a cord is not edited: delete it to release, create another to pull";
    pub const INJECTION_OVER: &str = "an injection that is over stays as it is";
    pub const INJECTION_STAYS: &str = "an injection is not edited: only revert may be set, and aim and container may change";
    pub const NO_HOLD: &str = "a hold must be longer than 0s";
    pub const NO_TIMEOUT: &str = "a timeout must be longer than 0s";
    pub const AFTER_SELF: &str = "an experiment cannot come after itself";
    pub const WORKLOAD_FAULT: &str = "scale needs targets.workload, and only scale takes one";
    pub const NOTHING_TO_REINJECT: &str = "onRestart is for faults that are held in a container";
    pub const HELD_FAULT: &str = "faults that a node holds (network, cpu, memory, diskFill, diskIo, files, processes, pause, containerKill) need targets.pods";
    pub const CONTAINER: &str = "targets.container is for faults that hit one container";
    pub const NODE_FAULT: &str = "cordon needs targets.nodes, and only cordon takes them";
    pub const GATE: &str = "a gate waits for an answer at least 1s and at most 24h";
    pub const SAID_STAYS: &str = "what somebody said stays said: add to the list";
    pub const GUARDRAIL_NAME: &str = "a guardrail's name has at most 63 characters: every refusal repeats it";
    pub const TIME_OF_DAY: &str = "a time of day is written like 09:30, from 00:00 to 24:00";
    pub const DATE: &str = "a date is written like 2026-12-24";
    pub const FROM_AND_TO: &str = "from and to go together";
    pub const FROM_IS_TO: &str = "from and to are the same time: for a whole day leave both out";
    pub const LAST_BEFORE_FIRST: &str = "lastDate is before firstDate";
    pub const FREEZE_ALWAYS: &str = "a freeze needs days, times or dates: without them it would never end";
    pub const CAP: &str = "a cap names targets, percent, or both";
    pub const PROMETHEUS: &str =
        "alerts need a Prometheus URL like http://prometheus.monitoring.svc:9090, with http or https and a host";
    pub const VALUE: &str = "a value is a whole number like 80 or a duration like 500ms";
    pub const VALUE_BOUND: &str = "a value's rule names min, max, or both";
    pub const VALUE_FIELD: &str = "a field is named as in a game day, below fault: podKill.gracePeriod";
}
