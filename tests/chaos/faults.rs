//! The faults F1 to F17 of the design's list, a plan of them made from a seed, and how each is brought about
//! and taken back. (F17, a source that falls silent, is a kind of entity in [`crate::traffic`], as are the
//! producers' clocks of F10.)

use std::time::Duration;

use async_nats::jetstream;
use futures_util::StreamExt;
use holdline_proto::event::Frame;
use holdline_proto::journal::{Decided, Effect, Record};
use holdline_proto::topology::{Bucket, EXECUTOR_CONSUMER, Stream, Topology};
use holdline_proto::wire;
use holdline_stage::clock;
use holdline_tests::proxy::Line;
use holdline_tests::random::Random;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::platform::Trouble;
use crate::target::Manner;
use crate::traffic::Traffic;
use crate::world::{How, PARTITIONS, Replica, STAGES, World};

/// Something that goes wrong.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Fault {
    /// F1
    Kill(Replica),
    /// F2
    KillServer(usize),
    /// F3
    KillLeader(Stream),
    RollServers,
    /// F4
    BrokerAway,
    BrokerLine(Replica, Line),
    GatewayLine(Replica, Line),
    /// F5
    Pause(Replica),
    /// F6
    DuplicateFrames,
    DuplicateCommands,
    /// F7
    Target(Manner),
    TargetLine(Line),
    /// F8
    Platform(Trouble),
    /// F9
    DiskFull(Replica),
    StoreFull(usize),
    /// F10
    ClockShift(Replica, i64),
    /// F11
    Storm,
    HotEntity,
    /// F12
    Poison(u64),
    /// F13
    SlowClients(usize),
    /// F14
    Push(u64),
    /// F15
    NextVersion(Replica),
    RollPrograms {
        next: bool,
    },
    /// F16
    NoExecutorConsumer,
    NoReaders,
    NoView(Bucket),
    NoLeases,
}

impl Fault {
    /// Its number in the design's list.
    pub(crate) fn id(&self) -> &'static str {
        match self {
            Fault::Kill(_) => "F1",
            Fault::KillServer(_) => "F2",
            Fault::KillLeader(_) | Fault::RollServers => "F3",
            Fault::BrokerAway | Fault::BrokerLine(..) | Fault::GatewayLine(..) => "F4",
            Fault::Pause(_) => "F5",
            Fault::DuplicateFrames | Fault::DuplicateCommands => "F6",
            Fault::Target(_) | Fault::TargetLine(_) => "F7",
            Fault::Platform(_) => "F8",
            Fault::DiskFull(_) | Fault::StoreFull(_) => "F9",
            Fault::ClockShift(..) => "F10",
            Fault::Storm | Fault::HotEntity => "F11",
            Fault::Poison(_) => "F12",
            Fault::SlowClients(_) => "F13",
            Fault::Push(_) => "F14",
            Fault::NextVersion(_) | Fault::RollPrograms { .. } => "F15",
            Fault::NoExecutorConsumer | Fault::NoReaders | Fault::NoView(_) | Fault::NoLeases => "F16",
        }
    }

    /// What it needs for itself while it lasts.
    fn needs(&self) -> Need {
        match self {
            Fault::Kill(replica)
            | Fault::BrokerLine(replica, _)
            | Fault::GatewayLine(replica, _)
            | Fault::Pause(replica)
            | Fault::DiskFull(replica)
            | Fault::ClockShift(replica, _)
            | Fault::NextVersion(replica) => Need::Replica(*replica),
            Fault::KillServer(_)
            | Fault::KillLeader(_)
            | Fault::RollServers
            | Fault::BrokerAway
            | Fault::StoreFull(_)
            | Fault::DuplicateFrames
            | Fault::DuplicateCommands
            | Fault::Poison(_)
            | Fault::Push(_)
            | Fault::NoExecutorConsumer
            | Fault::NoReaders
            | Fault::NoView(_)
            | Fault::NoLeases => Need::Broker,
            Fault::Target(_) | Fault::TargetLine(_) => Need::Target,
            Fault::Platform(_) => Need::Platform,
            Fault::RollPrograms { .. } => Need::Everything,
            Fault::Storm | Fault::HotEntity | Fault::SlowClients(_) => Need::Nothing,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Need {
    Nothing,
    Replica(Replica),
    Broker,
    Target,
    Platform,
    Everything,
}

impl Need {
    fn clashes(self, other: Need) -> bool {
        match (self, other) {
            (Need::Nothing, _) | (_, Need::Nothing) => false,
            (Need::Everything, _) | (_, Need::Everything) => true,
            (own, other) => own == other,
        }
    }
}

/// A fault, when it begins and when it is taken back. Milliseconds from the start.
#[derive(Debug, Clone)]
pub(crate) struct Planned {
    pub from_ms: u64,
    pub to_ms: u64,
    pub fault: Fault,
}

/// What a plan is made for.
#[derive(Debug, Clone)]
pub(crate) struct Scope {
    pub servers: usize,
    pub replicas: usize,
    pub for_ms: u64,
    pub has_next: bool,
    /// Only these numbers; empty: all.
    pub only: Vec<String>,
    /// Peace between one fault and the next, beyond the usual seconds: so that what follows each can be told.
    pub apart_ms: u64,
}

/// A client of a crowd that is not let in within this is the last one.
const CROWD_PATIENCE: Duration = Duration::from_secs(1);

/// Events of a hot entity: two seconds of them. What must come of them is told by a reference that looks through all of them
/// for each.
const HOT_EVENTS_MAX: usize = 10_000;

/// A plan is done when so many faults in a row have had no room left, or are not wanted.
const MISSES_MAX: usize = 1_000;

/// The kinds that a plan deals from, as long as the deck lasts, then anew.
const KINDS: u64 = 27;

/// How often everything is rolled to the next version and back again. A shorter plan does it once.
const VERSIONS_EVERY_MS: u64 = 60_000;

/// A plan: every kind in turn, in an order and with particulars that follow from the seed alone. Only what rolls
/// everything to the next version, after a quarter of each minute, and back, after three, has its fixed place: in
/// between that version runs long enough to be seen at work, and any other fault has room.
pub(crate) fn plan(seed: u64, scope: &Scope) -> Vec<Planned> {
    let mut random = Random::new(seed ^ 0xfa17);
    let wanted = |fault: &Fault| scope.only.is_empty() || scope.only.iter().any(|id| id == fault.id());
    let mut plan = rolls(scope);
    plan.retain(|planned| wanted(&planned.fault));
    let mut deck: Vec<u64> = vec![];
    let mut at_ms = 2_000;
    let mut misses = 0;
    while at_ms < scope.for_ms && misses < MISSES_MAX {
        if deck.is_empty() {
            deck = (0..KINDS).collect();
        }
        let kind = deck.swap_remove(random.below(deck.len() as u64) as usize);
        let Some((fault, lasts_ms)) = make(kind, &mut random, scope).filter(|(fault, _)| wanted(fault))
        else {
            misses += 1;
            continue;
        };
        let from_ms = free_from(&plan, &fault, at_ms, lasts_ms);
        if from_ms + lasts_ms >= scope.for_ms {
            misses += 1;
            continue;
        }
        plan.push(Planned { from_ms, to_ms: from_ms + lasts_ms, fault });
        at_ms = at_ms.max(from_ms.saturating_sub(5_000)) + 800 + random.below(2_500) + scope.apart_ms;
        misses = 0;
    }
    plan.sort_by_key(|planned| planned.from_ms);
    plan
}

/// When a fault can begin at the earliest: what it needs is whole from a while before it until a while after it, so
/// that something can happen between.
fn free_from(plan: &[Planned], fault: &Fault, at_ms: u64, lasts_ms: u64) -> u64 {
    const BETWEEN_MS: u64 = 1_000;
    let clashing: Vec<&Planned> =
        plan.iter().filter(|other| other.fault.needs().clashes(fault.needs())).collect();
    let mut from_ms = at_ms;
    while let Some(other) = clashing
        .iter()
        .find(|other| from_ms < other.to_ms + BETWEEN_MS && other.from_ms < from_ms + lasts_ms + BETWEEN_MS)
    {
        from_ms = other.to_ms + BETWEEN_MS;
    }
    from_ms
}

/// The changes of everything between the versions.
fn rolls(scope: &Scope) -> Vec<Planned> {
    if !scope.has_next {
        return vec![];
    }
    let every_ms = scope.for_ms.clamp(1, VERSIONS_EVERY_MS);
    // About what it takes.
    let lasts_ms = 330 * (STAGES.len() * scope.replicas) as u64;
    let roll =
        |from_ms, next| Planned { from_ms, to_ms: from_ms + lasts_ms, fault: Fault::RollPrograms { next } };
    let starts = (0..scope.for_ms / every_ms).map(|turn| turn * every_ms);
    starts
        .flat_map(|from_ms| [roll(from_ms + every_ms / 4, true), roll(from_ms + every_ms / 4 * 3, false)])
        .collect()
}

fn make(kind: u64, random: &mut Random, scope: &Scope) -> Option<(Fault, u64)> {
    let any = |random: &mut Random, stages: &[&'static str]| -> Replica {
        let stage = stages[random.below(stages.len() as u64) as usize];
        (stage, random.below(scope.replicas as u64) as usize)
    };
    let line = |random: &mut Random| match random.below(4) {
        0 => Line::Cut,
        1 => Line::Dark,
        2 => Line::Deaf,
        _ => Line::Slow(Duration::from_millis(100 + random.below(1_500))),
    };
    let single = scope.servers == 1;
    let server = random.below(scope.servers as u64) as usize;
    let moment = random.below(2_000);
    Some(match kind {
        0..=4 => (Fault::Kill((STAGES[kind as usize], random.below(scope.replicas as u64) as usize)), moment),
        5 | 6 => (Fault::KillServer(server), moment),
        7 if !single => {
            let streams = [Stream::Events, Stream::Inputs, Stream::Journal, Stream::Commands];
            (Fault::KillLeader(streams[random.below(4) as usize]), 2_000 + moment)
        }
        // About what it takes.
        8 if !single => (Fault::RollServers, 20_000),
        9 => (Fault::BrokerAway, 4_000 + random.below(12_000)),
        10 => (Fault::BrokerLine(any(random, &STAGES), line(random)), 2_000 + random.below(8_000)),
        11 => (Fault::GatewayLine(any(random, &["gateway"]), line(random)), 1_000 + random.below(5_000)),
        12 | 13 => (Fault::Pause(any(random, &STAGES)), 3_000 + random.below(7_000)),
        14 => (if random.once_in(2) { Fault::DuplicateFrames } else { Fault::DuplicateCommands }, 0),
        15 => {
            let manner = Manner::BAD[random.below(Manner::BAD.len() as u64) as usize];
            (Fault::Target(manner), 1_000 + random.below(7_000))
        }
        16 => (Fault::TargetLine(line(random)), 1_000 + random.below(7_000)),
        17 => (Fault::DiskFull(any(random, &["gateway"])), 4_000 + random.below(4_000)),
        18 if single => (Fault::StoreFull(server), 4_000 + random.below(4_000)),
        19 => {
            let hour = if random.once_in(2) { 3_600_000 } else { -3_600_000 };
            (Fault::ClockShift(any(random, &["executor", "dlq-replayer"]), hour), 5_000 + random.below(5_000))
        }
        20 => (if random.once_in(2) { Fault::Storm } else { Fault::HotEntity }, 0),
        21 => (Fault::Poison(random.below(u64::MAX >> 16)), 0),
        22 => (Fault::SlowClients(random.below(scope.replicas as u64) as usize), 3_000 + random.below(4_000)),
        23 => (Fault::Push(random.below(1_000)), 0),
        24 if scope.has_next => (Fault::NextVersion(any(random, &STAGES)), 4_000 + random.below(8_000)),
        25 => match random.below(5) {
            0 => (Fault::NoExecutorConsumer, 500 + moment),
            1 => (Fault::NoReaders, 0),
            2 => (Fault::NoView(Bucket::Incidents), 500 + moment),
            3 => (Fault::NoView(Bucket::Dedup), 500 + moment),
            _ => (Fault::NoLeases, 0),
        },
        26 => {
            let trouble = Trouble::ALL[random.below(Trouble::ALL.len() as u64) as usize];
            (Fault::Platform(trouble), 2_000 + random.below(10_000))
        }
        _ => return None,
    })
}

/// Brings faults about and takes them back.
pub(crate) struct Hand<'a> {
    pub world: &'a mut World,
    pub traffic: &'a Traffic,
    pub storm: usize,
    idle: Vec<TcpStream>,
    /// The server that is down as the leader of a stream.
    leader: Option<usize>,
}

impl<'a> Hand<'a> {
    pub(crate) fn new(world: &'a mut World, traffic: &'a Traffic, storm: usize) -> Hand<'a> {
        Hand { world, traffic, storm, idle: vec![], leader: None }
    }

    pub(crate) async fn strike(&mut self, fault: &Fault) {
        match fault {
            Fault::Kill(replica) => self.world.kill(*replica),
            Fault::KillServer(server) => self.world.cluster.kill(*server),
            Fault::KillLeader(stream) => {
                let name = Topology::default().stream(*stream);
                self.leader = self.world.cluster.leader(&name).await;
                if let Some(leader) = self.leader {
                    self.world.cluster.kill(leader);
                }
            }
            Fault::RollServers => {
                for server in 0..self.world.cluster.size() {
                    self.world.cluster.stop(server);
                    clock::sleep(Duration::from_millis(500)).await;
                    self.world.cluster.revive(server);
                    clock::sleep(Duration::from_secs(6)).await;
                }
            }
            Fault::BrokerAway => {
                for server in 0..self.world.cluster.size() {
                    self.world.cluster.kill(server);
                }
            }
            Fault::BrokerLine(replica, line) => self.world.set_line(*replica, *line),
            Fault::GatewayLine(replica, line) => self.world.set_front(*replica, *line),
            Fault::Pause(replica) => self.world.signal(*replica, "STOP"),
            Fault::DuplicateFrames => self.duplicate_frames().await,
            Fault::DuplicateCommands => self.duplicate_commands().await,
            Fault::Target(manner) => self.world.target.behave(*manner),
            Fault::TargetLine(line) => self.world.target_line.set(*line),
            Fault::Platform(trouble) => self.world.platform.strike(*trouble),
            Fault::DiskFull(gateway) => {
                self.world.kill(*gateway);
                self.world.spawn(*gateway, &How { file_kib_max: Some(1), ..How::default() });
                self.world.set_line(*gateway, Line::Dark);
            }
            Fault::StoreFull(server) => {
                self.world.cluster.kill(*server);
                let most = self.world.cluster.store_bytes(*server) + 300_000;
                self.world.cluster.limit_store(*server, Some(most));
                self.world.cluster.revive(*server);
            }
            Fault::ClockShift(replica, shift) => {
                self.world.stop(*replica);
                self.world.spawn(*replica, &How { clock_shift_ms: Some(*shift), ..How::default() });
            }
            Fault::Storm => self.traffic.storm(self.storm),
            Fault::HotEntity => self.traffic.hot((self.storm * 5).min(HOT_EVENTS_MAX)),
            Fault::Poison(seed) => self.poison(*seed).await,
            Fault::SlowClients(gateway) => self.crowd(*gateway).await,
            Fault::Push(number) => {
                self.world.push_bad();
                self.world.push(&format!("push {number}"));
            }
            Fault::NextVersion(replica) => {
                self.world.stop(*replica);
                self.world.spawn(*replica, &How { next: true, ..How::default() });
            }
            Fault::RollPrograms { next } => {
                for replica in self.world.replicas() {
                    self.world.stop(replica);
                    self.world.spawn(replica, &How { next: *next, ..How::default() });
                    clock::sleep(Duration::from_millis(300)).await;
                }
            }
            Fault::NoExecutorConsumer => {
                let context = self.provisioner().await;
                let commands = Topology::default().stream(Stream::Commands);
                context.delete_consumer_from_stream(EXECUTOR_CONSUMER, commands).await.ok();
            }
            Fault::NoReaders => self.delete_readers().await,
            Fault::NoView(bucket) => {
                let context = self.provisioner().await;
                context.delete_stream(Topology::default().bucket_stream(*bucket)).await.ok();
            }
            Fault::NoLeases => self.delete_leases().await,
        }
    }

    pub(crate) async fn heal(&mut self, fault: &Fault) {
        match fault {
            Fault::Kill(replica) => self.world.spawn(*replica, &How::default()),
            Fault::KillServer(server) => self.world.cluster.revive(*server),
            Fault::KillLeader(_) => {
                if let Some(leader) = self.leader.take() {
                    self.world.cluster.revive(leader);
                }
            }
            Fault::BrokerAway => {
                for server in 0..self.world.cluster.size() {
                    self.world.cluster.revive(server);
                }
            }
            Fault::BrokerLine(replica, _) => self.world.set_line(*replica, Line::Open),
            Fault::GatewayLine(replica, _) => self.world.set_front(*replica, Line::Open),
            Fault::Pause(replica) => self.world.signal(*replica, "CONT"),
            Fault::Target(_) => self.world.target.behave(Manner::Fine),
            Fault::TargetLine(_) => self.world.target_line.set(Line::Open),
            Fault::Platform(_) => self.world.platform.heal(),
            Fault::DiskFull(gateway) => {
                self.world.kill(*gateway);
                self.world.set_line(*gateway, Line::Open);
                self.world.spawn(*gateway, &How::default());
            }
            Fault::StoreFull(server) => {
                self.world.cluster.kill(*server);
                self.world.cluster.limit_store(*server, None);
                self.world.cluster.revive(*server);
            }
            Fault::ClockShift(replica, _) | Fault::NextVersion(replica) => {
                self.world.stop(*replica);
                self.world.spawn(*replica, &How::default());
            }
            Fault::SlowClients(_) => self.idle.clear(),
            Fault::NoView(_) => self.world.cluster.provision(PARTITIONS).await,
            Fault::RollServers
            | Fault::NoExecutorConsumer
            | Fault::DuplicateFrames
            | Fault::DuplicateCommands
            | Fault::Storm
            | Fault::HotEntity
            | Fault::Poison(_)
            | Fault::Push(_)
            | Fault::RollPrograms { .. }
            | Fault::NoReaders
            | Fault::NoLeases => {}
        }
    }

    async fn provisioner(&self) -> jetstream::Context {
        jetstream::new(self.world.cluster.client("provisioner").await)
    }

    /// The newest frames once more, as a publish would that was repeated after the broker's window.
    async fn duplicate_frames(&self) {
        let context = jetstream::new(self.world.cluster.client("operator").await);
        let gateway = self.world.cluster.client("gateway").await;
        let topology = Topology::default();
        let Ok(events) = context.get_stream(topology.stream(Stream::Events)).await else { return };
        for partition in 0..PARTITIONS {
            let subject = topology.event(partition);
            let Ok(last) = events.get_last_raw_message_by_subject(&subject).await else { continue };
            for sequence in last.sequence.saturating_sub(12)..=last.sequence {
                let Ok(message) = events.get_raw_message(sequence).await else { continue };
                let Ok(frame) = wire::decode::<Frame>(&message.payload) else { continue };
                if message.subject.as_str() == subject && !frame.events.is_empty() {
                    gateway.publish(subject.clone(), message.payload).await.ok();
                }
            }
        }
        gateway.flush().await.ok();
    }

    /// Commands of the newest records once more, as after a restart of the broker (a work queue forgets its
    /// message ids with its messages).
    async fn duplicate_commands(&self) {
        let context = jetstream::new(self.world.cluster.client("operator").await);
        let debouncer = self.world.cluster.client("debouncer").await;
        let topology = Topology::default();
        let Ok(journal) = context.get_stream(topology.stream(Stream::Journal)).await else { return };
        let Ok(info) = journal.get_info().await else { return };
        for sequence in info.state.last_sequence.saturating_sub(60)..=info.state.last_sequence {
            let Ok(message) = journal.get_raw_message(sequence).await else { continue };
            let Ok(record) = wire::decode::<Record<Decided>>(&message.payload) else { continue };
            for effect in record.effects {
                let Effect::Command(command) = effect else { continue };
                let subject = topology.command(command.partition, &command.incident);
                debouncer.publish(subject, wire::encode(&command).into()).await.ok();
            }
        }
        debouncer.flush().await.ok();
    }

    /// Bytes that nobody can understand, on every subject that a stage reads and others can write.
    async fn poison(&self, seed: u64) {
        let mut random = Random::new(seed);
        let p = random.below(u64::from(PARTITIONS));
        let topology = Topology::default();
        let prefix = topology.prefix();
        let places = [
            ("gateway", format!("{prefix}.event.{p}")),
            ("executor", format!("{prefix}.internal.outcome.{p}.poison")),
            ("dlq-replayer", format!("{prefix}.internal.retry.{p}.poison")),
            ("debouncer", format!("{prefix}.command.{p}.poison")),
            ("debouncer", format!("{prefix}.internal.fact.{p}")),
            ("executor", format!("{prefix}.dead.executor")),
            ("operator", format!("{prefix}.retry.asked")),
        ];
        for (role, subject) in places {
            let bytes: Vec<u8> = match random.below(6) {
                0 => vec![],
                1 => (0..random.below(2_000)).map(|_| random.below(256) as u8).collect(),
                2 => vec![0x81; 100_000],
                3 => wire::encode(&Frame::default())[..9].to_vec(),
                4 => vec![0xff; 1_048_577],
                _ => wire::encode(&Frame { gateway: "\u{fffd}".repeat(50), ..Frame::default() }),
            };
            // A frame is no poison where frames are read.
            if role == "gateway" && wire::decode::<Frame>(&bytes).is_ok() {
                continue;
            }
            let client = self.world.cluster.client(role).await;
            client.publish(subject, bytes.into()).await.ok();
            client.flush().await.ok();
        }
    }

    /// Clients that connect and send nothing, or half a request, or vanish.
    async fn crowd(&mut self, gateway: usize) {
        let address = self.world.gateway(gateway);
        for n in 0..200 {
            // A gateway that stands still takes no more of them.
            let connecting = tokio::time::timeout(CROWD_PATIENCE, TcpStream::connect(address));
            let Ok(Ok(mut client)) = connecting.await else { return };
            match n % 3 {
                0 => {}
                1 => drop(client.write_all(b"POST /v1/events/counted HTTP/1.1\r\nHost: x\r\nConte").await),
                _ => {
                    let half =
                        b"POST /v1/events/counted HTTP/1.1\r\nHost: x\r\nContent-Length: 500\r\n\r\n{\"id\"";
                    client.write_all(half).await.ok();
                    if n % 2 == 0 {
                        continue;
                    }
                }
            }
            self.idle.push(client);
        }
    }

    async fn delete_readers(&self) {
        let context = self.provisioner().await;
        for stream in [Stream::Events, Stream::Inputs] {
            let name = Topology::default().stream(stream);
            let Ok(stream) = context.get_stream(&name).await else { continue };
            let names: Vec<String> = stream.consumer_names().filter_map(async |n| n.ok()).collect().await;
            for consumer in names {
                stream.delete_consumer(&consumer).await.ok();
            }
        }
    }

    async fn delete_leases(&self) {
        let context = self.provisioner().await;
        let Ok(leases) = context.get_key_value(Topology::default().bucket(Bucket::Leases)).await else {
            return;
        };
        let Ok(keys) = leases.keys().await else { return };
        let keys: Vec<String> = keys.filter_map(async |key| key.ok()).collect().await;
        for key in keys.iter().filter(|key| key.contains(".lease.")) {
            leases.purge(key).await.ok();
        }
    }
}
