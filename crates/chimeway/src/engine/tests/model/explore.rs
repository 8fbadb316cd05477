//! Asking the checker.

use std::time::Instant;

use stateright::{Checker, Expectation, HasDiscoveries, Model as _};

use super::{Action, Rule, World};

/// Explores a world to its end: every invariant holds in every state, and all its facts happen.
pub(super) fn holds(name: &str, world: &World) {
    let begun = Instant::now();
    // While one invariant has no counterexample, the exploration ends only where nothing is left.
    let checker = world.clone().checker().threads(2).spawn_bfs().join();
    assert!(checker.is_done());
    for property in world.properties() {
        match (property.expectation, checker.discovery(property.name)) {
            (Expectation::Always, Some(_)) => {
                let path = shortest(world, property.name).join("\n  ");
                panic!("this does not hold: {}\n  {path}", property.name);
            }
            (Expectation::Sometimes, None) => panic!("this never happens: {}", property.name),
            _ => {}
        }
    }
    println!(
        "{name}: {} states, {} steps deep, {:.1} s",
        checker.unique_state_count(),
        checker.max_depth(),
        begun.elapsed().as_secs_f32(),
    );
}

/// Without these rules this invariant breaks, in a world in which it holds with them.
pub(super) fn breaks(world: World, without: &[Rule], invariant: &'static str) {
    let world = World {
        without: without.to_vec(),
        ..world
    };
    let path = shortest(&world, invariant);
    assert!(
        !path.is_empty(),
        "without {without:?} this holds: {invariant}"
    );
    let path = path.join("\n  ");
    println!("without {without:?} this breaks: {invariant}\n  {path}");
}

/// The shortest way to where an invariant breaks; empty where it does not. The checker may come past a
/// longer one after the shortest, so it is asked again for less than what it found.
fn shortest(world: &World, invariant: &'static str) -> Vec<String> {
    let mut known: Option<Vec<Action>> = None;
    loop {
        let mut checker = world.clone().checker();
        if let Some(actions) = &known {
            // It stops before states so deep, of which the first one is 1.
            checker = checker.target_max_depth(actions.len() + 1);
        }
        let found = HasDiscoveries::AnyOf([invariant].into());
        let checker = checker.finish_when(found).spawn_bfs().join();
        match checker.discovery(invariant) {
            Some(path) => known = Some(path.into_actions()),
            None => break,
        }
    }
    let actions = known.unwrap_or_default();
    actions.iter().map(|action| format!("{action:?}")).collect()
}
