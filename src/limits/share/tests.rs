use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

#[test]
fn max_min_gives_small_wants_in_full_and_divides_the_rest() {
    for (wants, pool, parts) in [
        (&[10][..], 100, &[100][..]),
        (&[500], 100, &[100]),
        (&[0, 0, 0], 99, &[33, 33, 33]),
        (&[5, 15, 300], 100, &[5, 15, 80]),
        (&[300, 300, 300], 100, &[33, 33, 33]),
        (&[10, 300, 300], 100, &[10, 45, 45]),
        (&[10, 20, 40], 100, &[20, 30, 50]),
        (&[10, 20], 0, &[0, 0]),
    ] {
        for (number, part) in parts.iter().enumerate() {
            let mut others = wants.to_vec();
            let own = others.remove(number);
            assert_eq!(max_min(own, &others, pool), *part, "{wants:?} of {pool}");
        }
    }
}

proptest! {
    #[test]
    fn parts_with_one_view_are_fair_and_add_up_to_the_pool(
        wants in prop::collection::vec(0..=TOTAL, 1..20),
        pool in 0..=TOTAL,
    ) {
        let part = |number: usize| {
            let mut others = wants.clone();
            let own = others.remove(number);
            max_min(own, &others, pool)
        };
        let parts: Vec<u32> = (0..wants.len()).map(part).collect();
        let sum: u32 = parts.iter().sum();
        prop_assert!(sum <= pool && sum + wants.len() as u32 > pool, "{parts:?}");
        for (part, want) in parts.iter().zip(&wants) {
            // A replica with less than it wants has as much as any other.
            prop_assert!(part >= want || parts.iter().all(|other| other <= &(part + 1)), "{parts:?}");
        }
    }
}

/// What the script in Redis does.
#[derive(Default)]
struct Ledger {
    since: Option<u64>,
    members: BTreeMap<usize, u64>,
    /// When each replica reported the limit, what it holds and what it wants.
    entries: BTreeMap<usize, (u64, u32, u32)>,
}

const fn ms(duration: Duration) -> u64 {
    duration.as_millis() as u64
}

impl Ledger {
    fn exchange(&mut self, own: usize, least: u32, report: Option<Report>, now: u64) -> (u32, Option<Grant>) {
        let since = *self.since.get_or_insert(now);
        self.members.insert(own, now);
        self.members.retain(|_, at| now - *at < ms(GONE_AFTER));
        self.entries.retain(|_, (at, ..)| now - *at < ms(LEASE));
        let known = self.members.len() as u32;
        let replicas = if now - since < ms(GONE_AFTER) { known.max(least) } else { known };
        let Some(report) = report else { return (replicas, None) };
        let mut reserved = (replicas - known) * fair(replicas);
        let (mut held, mut wants) = (0, Vec::new());
        for (member, at) in self.members.iter().filter(|(member, _)| **member != own) {
            let entry = self.entries.get(member);
            let is_live = now - at < ms(SUSPECT_AFTER);
            match entry {
                Some((_, other, want)) if is_live => {
                    held += other;
                    wants.push(*want);
                }
                Some((_, other, _)) => reserved += (*other).max(fair(replicas)),
                None if is_live => reserved += floor(replicas),
                None => reserved += fair(replicas),
            }
        }
        let pool = TOTAL.saturating_sub(reserved);
        let share = report.asked.min(pool.saturating_sub(held)).max(floor(replicas));
        self.entries.insert(own, (now, report.held.max(share), report.want));
        (replicas, Some(Grant { share, view: View { pool, wants } }))
    }
}

/// The number of replicas, and the grant if the limit was reported.
type Answer = (u32, Option<Grant>);

/// When an exchange began, when the ledger gets it, when its answer arrives, and the answer.
type Exchange = (u64, u64, u64, Option<Answer>);

/// A replica with one limit, on the virtual clock of the simulation.
struct Replica {
    membership: Membership,
    share: Option<Share>,
    demand: f64,
    next: u64,
    exchange: Option<Exchange>,
    is_cut: bool,
}

struct Simulation {
    start: Instant,
    now: u64,
    ledger: Ledger,
    replicas: Vec<Replica>,
    /// Delays of messages in both directions, in turn.
    delays: Vec<u64>,
    turn: usize,
    /// The rate of the limit.
    rate: f64,
    /// The time and shares with the highest sum.
    worst: (u64, Vec<u32>),
}

impl Simulation {
    fn new(count: usize, delays: &[u64]) -> Self {
        let start = Instant::now();
        let replica = |number| Replica {
            membership: Membership::new(start),
            share: None,
            demand: 0.0,
            next: number as u64 * 37 % ms(INTERVAL),
            exchange: None,
            is_cut: false,
        };
        Self {
            start,
            now: 0,
            ledger: Ledger::default(),
            replicas: (0..count).map(replica).collect(),
            delays: delays.to_vec(),
            turn: 0,
            rate: 10_000.0,
            worst: Default::default(),
        }
    }

    fn delay(&mut self) -> u64 {
        self.turn += 1;
        self.delays[self.turn % self.delays.len()]
    }

    /// Runs for `duration` ms and returns the highest sum of shares in force.
    fn run(&mut self, duration: u64) -> u32 {
        let mut highest = 0;
        for _ in 0..duration {
            self.now += 1;
            for number in 0..self.replicas.len() {
                self.step(number);
            }
            let shares = self.in_force();
            let sum = shares.iter().sum();
            if sum > highest {
                (highest, self.worst) = (sum, (self.now, shares));
            }
        }
        highest
    }

    fn in_force(&self) -> Vec<u32> {
        let share = |replica: &Replica| match &replica.share {
            Some(share) => share.held(),
            None => replica.membership.base(),
        };
        self.replicas.iter().map(share).collect()
    }

    fn step(&mut self, number: usize) {
        let (now, clock) = (self.now, self.start + Duration::from_millis(self.now));
        let (out, back) = (self.delay(), self.delay());
        let Self { replicas, ledger, rate, .. } = self;
        let replica = &mut replicas[number];
        let change = replica.membership.check(clock);
        let count = replica.membership.replicas();
        match (change, &mut replica.share) {
            (Some(Change::Lower), Some(share)) => share.lower_to_fair(count),
            (Some(Change::Raise), Some(share)) => share.set_fair(count),
            _ => {}
        }
        match &mut replica.exchange {
            // The ledger gets the report.
            Some((_, arrives, _, answer)) if *arrives == now => {
                let share = replica.share.as_ref();
                let report = share.map(|it| Report { held: it.held(), asked: it.asked, want: it.want });
                *answer = Some(ledger.exchange(number, count, report, now));
            }
            Some((began, _, back, answer)) if *back == now && now - *began < ms(TIMEOUT) => {
                let begun = *began;
                let clock = self.start + Duration::from_millis(begun);
                if let Some((count, grant)) = answer.take().filter(|_| !replica.is_cut) {
                    replica.membership.exchanged(clock, count);
                    if let (Some(share), Some(grant)) = (&mut replica.share, grant) {
                        share.apply(grant, count);
                    }
                }
                let soon = replica.share.as_ref().is_some_and(|share| share.is_unsettled(count));
                replica.next = (begun + if soon { ms(SOON) } else { ms(INTERVAL) }).max(now + 1);
                replica.exchange = None;
            }
            Some((began, ..)) if now - *began >= ms(TIMEOUT) => {
                replica.exchange = None;
                replica.next = now + 50;
            }
            None if replica.next <= now && !replica.is_cut => {
                if !replica.membership.begin(clock) {
                    replica.membership.connect(clock);
                    replica.membership.begin(clock);
                }
                let is_busy = replica.demand > 0.0;
                if replica.share.is_none() && is_busy {
                    replica.share = Some(Share::new(replica.membership.base()));
                }
                if let Some(share) = &mut replica.share {
                    let usage = Usage {
                        requests: (replica.demand * *rate * 0.15) as u32,
                        allowance: *rate * 0.15,
                        missing: 0.0,
                    };
                    if share.record(usage) {
                        share.report(count);
                    } else if share.held() <= floor(count) {
                        replica.share = None;
                    } else {
                        share.release(count);
                    }
                }
                replica.exchange = Some((now, now + 1 + out, now + 2 + out + back, None));
            }
            _ => {}
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Also while demand moves, messages are slow, and single replicas are cut off and come back.
    #[test]
    fn shares_in_force_never_exceed_the_total(
        count in 1_usize..6,
        delays in prop::collection::vec(0_u64..45, 1..20),
        events in prop::collection::vec((0_usize..6, 0.0_f64..2.0, any::<bool>(), 1_u64..1500), 1..25),
    ) {
        let mut simulation = Simulation::new(count, &delays);
        // A joining replica has its floor before the others know of it.
        simulation.run(1500);
        for (number, demand, cut, duration) in events {
            let number = number % count;
            simulation.replicas[number].demand = if demand < 0.5 { 0.0 } else { demand };
            // A replica that is cut off for 5 s does not count any more, and the others divide its share.
            for (other, replica) in simulation.replicas.iter_mut().enumerate() {
                replica.is_cut = match other == number {
                    true => cut && !replica.is_cut,
                    false => replica.is_cut && simulation.now.saturating_sub(replica.next) < 2500,
                };
            }
            let highest = simulation.run(duration);
            prop_assert!(highest <= TOTAL, "{highest} before {} ms: {:?}", simulation.now, simulation.worst);
        }
    }

    /// Within six intervals.
    #[test]
    fn shares_converge_under_constant_load(
        demands in prop::collection::vec(0.01_f64..1.5, 1..6),
        delays in prop::collection::vec(0_u64..10, 1..20),
    ) {
        let mut simulation = Simulation::new(demands.len(), &delays);
        simulation.run(1000);
        for (replica, demand) in simulation.replicas.iter_mut().zip(&demands) {
            replica.demand = *demand;
        }
        simulation.run(6 * ms(INTERVAL));
        let wants: Vec<u32> = demands.iter().map(|demand| (demand * HEADROOM * 1e6) as u32).collect();
        for (number, found) in simulation.in_force().into_iter().enumerate() {
            let mut others: Vec<u32> = wants.iter().map(|want| *want.min(&TOTAL)).collect();
            let own = others.remove(number);
            let ideal = max_min(own, &others, TOTAL).max(floor(demands.len() as u32));
            prop_assert!(found.abs_diff(ideal) <= 2 * TOLERANCE, "{found} instead of {ideal} of {wants:?}");
        }
    }
}

#[test]
fn lone_replica_has_the_whole_limit_and_others_only_lend_it() {
    for count in [1, 2, 3, 5] {
        let mut simulation = Simulation::new(count, &[1]);
        simulation.run(1000);
        simulation.replicas[0].demand = 2.0;
        simulation.run(2 * ms(INTERVAL));
        let idle = (count as u32 - 1) * floor(count as u32);
        assert_eq!(simulation.in_force()[0], TOTAL - idle, "{count}");
        // A newly busy replica gets its part back.
        if let Some(other) = simulation.replicas.get_mut(1) {
            other.demand = 2.0;
            simulation.run(3 * ms(INTERVAL));
            let shares = simulation.in_force();
            assert!(shares[0].abs_diff(shares[1]) <= 2 * TOLERANCE, "{shares:?}");
        }
    }
}

#[test]
fn replicas_without_the_ledger_have_fair_shares_within_a_second() {
    let mut simulation = Simulation::new(3, &[1]);
    simulation.run(1000);
    simulation.replicas[0].demand = 2.0;
    simulation.run(1000);
    for replica in &mut simulation.replicas {
        replica.is_cut = true;
    }
    assert!(simulation.run(1000) <= TOTAL);
    assert_eq!(simulation.in_force(), [fair(3); 3]);
    // A ledger that has lost everything counts the replicas that are not back yet.
    simulation.ledger = Ledger::default();
    for number in 0..3 {
        simulation.replicas[number].is_cut = false;
        assert!(simulation.run(800) <= TOTAL);
    }
    assert_eq!(simulation.in_force(), [TOTAL - 2 * floor(3), floor(3), floor(3)]);
}

#[test]
fn grant_above_what_was_asked_is_lowered_to_it() {
    let mut share = Share::new(floor(4));
    share.record(Usage { requests: 40, allowance: 100.0, missing: 0.0 });
    let report = share.report(4);
    for share_granted in [report.asked + 1, TOTAL + 1, u32::MAX] {
        let view = View { pool: u32::MAX, wants: vec![] };
        share.apply(Grant { share: share_granted, view }, 4);
        assert_eq!(share.held(), report.asked);
        assert!(share.report(4).asked <= TOTAL);
        share.asked = report.asked;
    }
    share.apply(Grant { share: 0, view: View { pool: 0, wants: vec![u32::MAX; 10] } }, 4);
    assert_eq!(share.held(), floor(4), "its floor is reserved for it");
}
