use super::*;

async fn finish(tasks: &Tasks) -> Result<(), String> {
    tasks.finish().await.map_err(|error| crate::log::chain(&error))
}

#[tokio::test]
async fn tasks_that_obey_end_well() {
    let tasks = Tasks::new(Shutdown::new());
    for name in ["a", "b"] {
        let shutdown = tasks.shutdown().clone();
        tasks.spawn(name, async move {
            shutdown.requested().await;
            Ok::<(), std::io::Error>(())
        });
    }
    tasks.spawn_finite("short", async { Ok::<(), std::io::Error>(()) });
    tasks.shutdown().request();
    assert_eq!(finish(&tasks).await, Ok(()));
}

#[tokio::test]
async fn one_bad_task_stops_all_and_is_named() {
    #[track_caller]
    fn spawn_bad(tasks: &Tasks, how: &str) {
        match how {
            "ends" => tasks.spawn("bad", async { Ok::<(), std::io::Error>(()) }),
            "fails" => tasks.spawn_finite("bad", async { Err(std::io::Error::other("disk full")) }),
            _ => tasks.spawn_finite("bad", async { panic_with::<Result<(), std::io::Error>>("boom") }),
        }
    }
    fn panic_with<T>(message: &str) -> T {
        panic!("{message}")
    }
    for (how, expected) in [
        ("ends", "task bad ended although nobody asked it to stop"),
        ("fails", "task bad failed: disk full"),
        ("panics", "task bad panicked: boom"),
    ] {
        let tasks = Tasks::new(Shutdown::new());
        let shutdown = tasks.shutdown().clone();
        tasks.spawn("good", async move {
            shutdown.requested().await;
            Ok::<(), std::io::Error>(())
        });
        spawn_bad(&tasks, how);
        assert_eq!(finish(&tasks).await, Err(expected.to_owned()));
    }
}

#[tokio::test(start_paused = true)]
async fn a_task_that_does_not_stop_is_aborted_and_named() {
    let tasks = Tasks::new(Shutdown::new());
    let (held, mut dropped) = tokio::sync::oneshot::channel::<()>();
    tasks.spawn("deaf", async move {
        let _held = held;
        std::future::pending::<Result<(), std::io::Error>>().await
    });
    tasks.shutdown().request();
    assert_eq!(
        finish(&tasks).await,
        Err("still busy 10 s after the request to stop, aborted: deaf".to_owned())
    );
    assert!((&mut dropped).await.is_err(), "its state was dropped");
}

#[tokio::test]
async fn a_child_shutdown_follows_its_parent_but_not_the_other_way() {
    let parent = Shutdown::new();
    let (child, other) = (parent.child(), parent.child());
    child.request();
    assert!(!parent.is_requested() && !other.is_requested());
    parent.request();
    other.requested().await;
    let endless = parent.until(futures::stream::repeat(1));
    assert_eq!(endless.collect::<Vec<_>>().await, Vec::<i32>::new());
}

#[tokio::test]
async fn an_attached_task_ends_with_its_holder() {
    let (held, dropped) = tokio::sync::oneshot::channel::<()>();
    let attached = attach(async move {
        let _held = held;
        std::future::pending::<()>().await;
    });
    drop(attached);
    assert!(dropped.await.is_err());
}

#[tokio::test]
async fn work_in_the_background_gives_its_result_or_says_that_it_panicked() {
    assert_eq!(background("adds", || 1 + 1).await.unwrap(), 2);
    let panicked = background("panics", || assert!(std::hint::black_box(false), "on purpose")).await;
    assert!(matches!(panicked, Err(BackgroundError::Panicked)));
}
