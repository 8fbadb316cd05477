//! Worker processes, each started anew when it ends: what systemd or Kubernetes does.

use std::{
    process::ExitStatus,
    sync::{Arc, Mutex},
    time::Duration,
};

use nix::sys::signal::Signal;
use rand::{RngExt as _, rngs::StdRng};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
};

use crate::process::{Worker, WorkerCommand};

/// Before a process that has ended is started anew.
const PAUSE: Duration = Duration::from_millis(100);

/// What became of processes.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tally {
    pub(crate) started: usize,
    /// By us, with SIGKILL.
    pub(crate) killed: usize,
    /// By themselves, and not well: a failpoint, an abort.
    pub(crate) crashed: usize,
    /// Told to drain, and ended well.
    pub(crate) drained: usize,
    /// Told to drain, and ended in another way.
    pub(crate) drained_badly: Vec<ExitStatus>,
    /// By themselves and well: nobody told them to.
    pub(crate) gave_up: usize,
}

impl Tally {
    /// Processes that ended without a drain.
    pub(crate) fn kills(&self) -> usize {
        self.killed + self.crashed
    }
}

enum Order {
    Kill,
    Drain,
    Stop,
}

struct Slot {
    orders: mpsc::Sender<(Order, oneshot::Sender<()>)>,
    running: JoinHandle<()>,
}

pub(crate) struct Supervisor {
    slots: Vec<Slot>,
    tally: Arc<Mutex<Tally>>,
}

impl Supervisor {
    /// Keeps so many processes alive; `command` is asked for each start, and told how many came before.
    pub(crate) fn start(
        count: usize,
        command: impl Fn(usize) -> WorkerCommand + Clone + Send + 'static,
    ) -> Self {
        let tally = Arc::<Mutex<Tally>>::default();
        let slot = |_| {
            let (orders, taken) = mpsc::channel(1);
            let keeping = keep(command.clone(), taken, Arc::clone(&tally));
            Slot {
                orders,
                running: tokio::spawn(keeping),
            }
        };
        let slots = (0..count).map(slot).collect();
        Self { slots, tally }
    }

    pub(crate) fn tally(&self) -> Tally {
        self.tally.lock().unwrap().clone()
    }

    async fn order(&self, slot: usize, order: Order) {
        let (done, over) = oneshot::channel();
        self.slots[slot].orders.send((order, done)).await.unwrap();
        over.await.unwrap();
    }

    /// `kill -9` of one of them.
    pub(crate) async fn kill(&self, rng: &mut StdRng) {
        let slot = rng.random_range(0..self.slots.len());
        self.order(slot, Order::Kill).await;
    }

    /// SIGTERM to one of them; waits for its end.
    pub(crate) async fn drain(&self, rng: &mut StdRng) {
        let slot = rng.random_range(0..self.slots.len());
        self.order(slot, Order::Drain).await;
    }

    /// Drains all of them for good; what became of all.
    pub(crate) async fn stop(self) -> Tally {
        let each = (0..self.slots.len()).map(|slot| self.order(slot, Order::Stop));
        futures::future::join_all(each).await;
        for slot in self.slots {
            slot.running.await.unwrap();
        }
        self.tally.lock().unwrap().clone()
    }
}

async fn keep(
    command: impl Fn(usize) -> WorkerCommand,
    mut orders: mpsc::Receiver<(Order, oneshot::Sender<()>)>,
    tally: Arc<Mutex<Tally>>,
) {
    let count = |what: &dyn Fn(&mut Tally)| what(&mut tally.lock().unwrap());
    loop {
        let before = {
            let mut tally = tally.lock().unwrap();
            tally.started += 1;
            tally.started - 1
        };
        let mut worker = command(before).spawn();
        let order = tokio::select! {
            status = worker.wait() => {
                count(&|tally| if status.success() { tally.gave_up += 1 } else { tally.crashed += 1 });
                tokio::time::sleep(PAUSE).await;
                continue;
            }
            order = orders.recv() => order,
        };
        let Some((order, done)) = order else { return };
        match order {
            Order::Kill => {
                worker.kill().await;
                count(&|tally| tally.killed += 1);
            }
            Order::Drain | Order::Stop => {
                let status = drained(worker).await;
                count(&|tally| {
                    if status.success() {
                        tally.drained += 1;
                    } else {
                        tally.drained_badly.push(status);
                    }
                });
            }
        }
        let _ = done.send(());
        if matches!(order, Order::Stop) {
            return;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn drained(mut worker: Worker) -> ExitStatus {
    worker.watches_for_signals().await;
    worker.signal(Signal::SIGTERM);
    worker.ended().await
}
