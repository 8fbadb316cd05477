//! Sizes level off under a steady load, and would not without pruning.

use crate::programs::{Ran, chimeway_at, words};

fn soak(keep: &str) -> std::thread::JoinHandle<Ran> {
    let line = format!("bench soak --minutes 0.5 --rate 60 --keep {keep} --allowed 20 --json");
    std::thread::spawn(move || {
        let mut command = chimeway_at("", &words(&line));
        Ran::from(command.output().unwrap())
    })
}

#[test]
fn heavy_sizes_level_off_and_do_not_where_nothing_is_pruned() {
    let (pruned, kept) = (soak("2s"), soak("off"));
    let pruned = pruned.join().unwrap();
    let kept = kept.join().unwrap();
    let figures = pruned.expect(0).json();
    assert_eq!(figures["levels_off"], true, "{figures}");
    let samples = figures["samples"].as_array().unwrap();
    assert_eq!(samples.len(), 20);
    assert!(figures["journeys"].as_u64().unwrap() > 1_000, "{figures}");
    let kept = kept.expect(1);
    assert!(kept.err.contains("sizes do not level off"), "{}", kept.err);
    assert_eq!(kept.json()["levels_off"], false);
}
