//! Content as people read it.

use prost_types::{Duration, Timestamp};
use wire::api::v1::{
    Agent, AgentContent, CollectGarbageResponse, ContentBytes, ContentChange, ContentFailure, ContentFile,
    ContentRevisionStatus, ContentStatus, FinishUploadResponse, Patch, Stage,
};

use super::*;
use crate::content::upload::Sent;

const NOW: domain::Timestamp = domain::Timestamp(1_700_000_000_000);

fn plain() -> Style {
    Style::plain_at(NOW)
}

fn at(seconds: i64) -> Option<Timestamp> {
    Some(Timestamp { seconds, nanos: 0 })
}

fn revision_of(number: u32) -> Revision {
    Revision {
        channel: "definitions/ips".into(),
        revision: number,
        label: if number == 7 { "2023-11-14".into() } else { String::new() },
        note: "spring\ncleaning".into(),
        created_at: at(1_700_000_000),
        bytes: 19_084_084,
        files: 214,
        digest: vec![0xab; 32],
        manifest: vec![0x01; 32],
        manifest_bytes: 9_000,
        pinned: number == 6,
        stages: if number == 7 { vec!["canary".into()] } else { vec![] },
        groups: if number == 6 { vec!["/servers/db".into()] } else { vec![] },
    }
}

fn sample() -> Channel {
    Channel {
        name: "definitions/ips".into(),
        stages: vec![
            Stage { name: "canary".into(), revision: 7, previous: vec![6, 5], ..Stage::default() },
            Stage {
                name: "stable".into(),
                revision: 0,
                manager: "kubernetes:default".into(),
                ..Stage::default()
            },
        ],
        revisions: vec![revision_of(7), revision_of(6), revision_of(5)],
        keep_revisions: 30,
        keep_for: None,
        groups: vec!["/servers".into()],
        agents: 12,
        store_revision: 42,
    }
}

#[test]
fn channels_are_listed_with_what_they_take() {
    let response = ListChannelsResponse {
        channels: vec![sample(), Channel { name: "models/text".into(), ..Channel::default() }],
        next_page_token: String::new(),
        stored_bytes: 3 << 30,
        quota_bytes: 20 << 30,
    };
    assert_eq!(
        list(&response, plain()),
        "CHANNEL          NEWEST  LABEL           SIZE  STAGES              ASSIGNED BY  AGENTS\n\
         definitions/ips  7       2023-11-14  18.2 MiB  canary 7, stable -  /servers         12\n\
         models/text      -       -                0 B  -                   -                 0\n\
         \n\
         all content takes 3.0 GiB of 20.0 GiB\n"
    );
}

#[test]
fn a_channel_is_shown_with_its_stages_and_revisions() {
    assert_eq!(
        channel(&sample(), plain()),
        "Channel:              definitions/ips\n\
         Assigned by:          /servers\n\
         Agents:               12\n\
         Keeps:                30 revisions; the rest as the server does by default\n\
         Changed at revision:  42\n\
         \n\
         STAGE   REVISION  BEFORE  MANAGED BY\n\
         canary  7         6, 5    -\n\
         stable  -         -       kubernetes:default\n\
         \n\
         REVISION  LABEL           SIZE  FILES  PUSHED                KEPT BY           NOTE\n\
         \u{20}      7  2023-11-14  18.2 MiB    214  2023-11-14T22:13:20Z  @canary           spring\\ncleaning\n\
         \u{20}      6  -           18.2 MiB    214  2023-11-14T22:13:20Z  /servers/db, pin  spring\\ncleaning\n\
         \u{20}      5  -           18.2 MiB    214  2023-11-14T22:13:20Z  -                 spring\\ncleaning\n"
    );
    let kept = |keep_revisions, seconds| {
        let keep_for = Some(Duration { seconds, nanos: 0 });
        kept(&Channel { keep_revisions, keep_for, ..sample() }, plain())
    };
    assert_eq!(kept(0, 0), "definitions/ips keeps as the server does by default\n");
    assert_eq!(kept(1, 86_400), "definitions/ips keeps 1 revision, each at least 1d\n");
}

#[test]
fn a_revision_is_shown_with_its_files_and_the_ways_to_it() {
    let file = |path: &str, executable| ContentFile {
        path: path.into(),
        bytes: 1_200,
        digest: vec![0xcd; 32],
        executable,
    };
    let detail = RevisionDetail {
        revision: Some(revision_of(7)),
        files: vec![file("a.rules", false), file("bin/check", true)],
        chunks: 231,
        chunk_bytes: 9_000_000,
        full_bytes: 0,
        patches: vec![Patch { from: 6, bytes: 12_595 }, Patch { from: 5, bytes: 88_000 }],
        patches_pending: 1,
    };
    let digest = |byte: &str| byte.repeat(32);
    assert_eq!(
        revision(&detail, false, plain()),
        format!(
            "Channel:        definitions/ips\n\
             Revision:       7\n\
             Label:          2023-11-14\n\
             Note:           spring\\ncleaning\n\
             Pushed:         2023-11-14T22:13:20Z\n\
             Kept by:        @canary\n\
             Size:           18.2 MiB in 214 files\n\
             As chunks:      8.5 MiB in 231 chunks\n\
             Full download:  not made yet\n\
             Content:        {}\n\
             Manifest:       {}\n\
             \n\
             PATCH FROM      SIZE\n\
             \u{20}        6  12.2 KiB\n\
             \u{20}        5  85.9 KiB\n\
             1 more patch is being made\n\
             \n\
             FILE          SIZE  MODE  SHA-256\n\
             a.rules    1.1 KiB  0644  {digest}\n\
             bin/check  1.1 KiB  0755  {digest}\n",
            digest("ab"),
            digest("01"),
            digest = digest("cd"),
        )
    );
    let many = RevisionDetail { files: vec![file("x", false); 25], patches: vec![], ..detail };
    let shown = revision(&many, false, plain());
    assert!(shown.ends_with("\n... and 5 more files; --files lists all\n"), "{shown}");
    assert_eq!(revision(&many, true, plain()).matches("\nx ").count(), 25);
}

#[test]
fn a_diff_names_files_and_what_the_way_costs() {
    let change = |path: &str, action: FileAction, bytes_before, bytes_after| FileChange {
        path: path.into(),
        action: action.into(),
        bytes_before,
        bytes_after,
    };
    let response = DiffRevisionsResponse {
        from: Some(revision_of(6)),
        to: Some(revision_of(7)),
        files: vec![
            change("a.rules", FileAction::FileChanged, 1_000, 1_000),
            change("b.rules", FileAction::FileChanged, 1_000, 2_048),
            change("c.rules", FileAction::FileAdded, 0, 5),
            change("d.rules", FileAction::FileRemoved, 7, 0),
        ],
        patch_bytes: Some(12_595),
        chunk_bytes: 88_000,
        full_bytes: 9_000_000,
    };
    assert_eq!(
        diff(&response, plain()),
        "definitions/ips revision 6 -> 7\n\
         \u{20} changed  a.rules  1000 B\n\
         \u{20} changed  b.rules  1000 B -> 2.0 KiB\n\
         \u{20} added    c.rules  5 B\n\
         \u{20} removed  d.rules  7 B\n\
         \n\
         an agent at 6 fetches a patch of 12.2 KiB; missing chunks are 85.9 KiB, a full download is 8.5 MiB\n"
    );
    let same = DiffRevisionsResponse { files: vec![], patch_bytes: None, ..response };
    assert_eq!(
        diff(&same, plain()),
        "definitions/ips revision 6 -> 7\n  no difference\n\n\
         there is no patch; missing chunks are 85.9 KiB, a full download is 8.5 MiB\n"
    );
}

#[test]
fn a_push_tells_what_it_saved() {
    let check = |created, chunks, bytes, expected: &str| {
        let response = FinishUploadResponse { revision: Some(revision_of(7)), created, store_revision: 42 };
        let pushed = Pushed { files: 1, bytes: 1_000_000, chunks: 12, sent: Sent { chunks, bytes } };
        assert_eq!(push(&response, &pushed, plain()), expected);
    };
    let name = "revision 7 (2023-11-14) of definitions/ips";
    let first = format!("{name}: 1 file, 976 KiB in 12 chunks\n");
    check(true, 3, 30_000, &format!("{first}sent 29.2 KiB in 3 chunks; saved 947 KiB (97 %)\n"));
    check(true, 12, 1_000_100, &format!("{first}sent 976 KiB in 12 chunks; saved 0 B (0 %)\n"));
    check(true, 0, 0, &format!("{first}sent nothing: every chunk was there already\n"));
    check(false, 0, 0, &format!("{name} holds exactly this already; nothing was sent\n"));
    check(false, 1, 5, &format!("{name} holds exactly this already\n"));
}

#[test]
fn a_change_tells_the_stage_before_and_after() {
    let check = |verb: Verb, change: ContentChange, expected: &str| {
        let change = ContentChange { store_revision: 42, revision: Some(revision_of(7)), ..change };
        assert_eq!(changed(&change, verb, plain()), expected);
    };
    let stage = || ContentChange {
        stage: "stable".into(),
        stage_before: 6,
        groups_touched: 1,
        ..ContentChange::default()
    };
    check(
        Verb::Stage,
        stage(),
        "updated  Channel  definitions/ips  stable: 6 -> 7\n\n\
         revision 42: 1 group gets a new snapshot; 0 agents are in it\n",
    );
    check(
        Verb::Stage,
        ContentChange { unchanged: true, dry_run: true, ..stage() },
        "unchanged  Channel  definitions/ips  stable: 7\n\ndry run: nothing would change\n",
    );
    check(
        Verb::Unpin,
        ContentChange::default(),
        "updated  Channel  definitions/ips  revision 7 is not pinned\n\n\
         revision 42: no group gets a new snapshot\n",
    );
    check(
        Verb::Retire,
        ContentChange { dry_run: true, ..ContentChange::default() },
        "deleted  Channel  definitions/ips  revision 7\n\n\
         dry run, nothing was written: no group would get a new snapshot\n",
    );
}

#[test]
fn garbage_tells_what_is_freed() {
    let check = |chunks, retired: Vec<Revision>, dry_run, expected: &str| {
        let collected = CollectGarbageResponse {
            retired,
            chunks,
            freed_bytes: chunks * 1_000,
            stored_bytes: 1 << 30,
            quota_bytes: 20 << 30,
            dry_run,
            ..CollectGarbageResponse::default()
        };
        let taken = "all content takes 1.0 GiB of 20.0 GiB\n";
        assert_eq!(garbage(&collected, plain()), format!("{expected}\n{taken}"));
    };
    check(0, vec![], false, "nothing to delete");
    check(0, vec![], true, "dry run: nothing would be deleted");
    let freed = "8.7 KiB in 9 chunks, 0 pieces of patches and 0 manifests";
    let retired = "deleted  Channel  definitions/ips  revision 7 (2023-11-14)\n";
    check(9, vec![revision_of(7)], false, &format!("{retired}\nfreed {freed}"));
    check(9, vec![], true, &format!("dry run, nothing was deleted: {freed} would be freed"));
}

#[test]
fn a_fetch_tells_what_was_fetched_and_proved() {
    let check = |missing, signed, expected: &str| {
        let fetched = Fetched {
            place: "rules".into(),
            files: 214,
            bytes: 2_000,
            missing,
            travelled: missing / 2,
            signed,
        };
        let first = "revision 7 (2023-11-14) of definitions/ips is in rules: 214 files, 1.9 KiB\n";
        assert_eq!(super::fetched(&revision_of(7), &fetched, plain()), format!("{first}{expected}\n"));
    };
    check(2_000, true, "fetched as 1000 B; digests and signatures are right");
    check(500, true, "fetched as 250 B; 1.4 KiB were there already; digests and signatures are right");
    check(0, false, "everything was there already; digests are right; --trust-root also checks signatures");
}

#[test]
fn a_status_tells_how_far_and_when() {
    let whole = ContentStatus {
        channel: "definitions/ips".into(),
        agents: 12,
        current: 9,
        waiting: 1,
        downloading: 1,
        failed: 1,
        revisions: vec![
            ContentRevisionStatus { revision: 7, active: 9, wanted: 12, downloading: 1, failed: 1 },
            ContentRevisionStatus { revision: 6, active: 3, ..ContentRevisionStatus::default() },
        ],
        bytes: Some(ContentBytes { patch: 2_048, chunk: 1_024, full: 0, held: 1 << 20 }),
        expected_finish: at(1_700_000_190),
        time: at(1_700_000_000),
        failures: vec![ContentFailure { agent: "web-1".into(), revision: 7, reason: "disk full".into() }],
        ..ContentStatus::default()
    };
    assert_eq!(
        status(&whole, plain()),
        "definitions/ips, 2023-11-14T22:13:20Z\n\
         \n\
         AGENTS  CURRENT  WAITING  DOWNLOADING  APPLYING  FAILED\n\
         \u{20}   12        9        1            1         0       1\n\
         \n\
         REVISION  IN FORCE  ASSIGNED  DOWNLOADING  FAILED\n\
         \u{20}      7         9        12            1       1\n\
         \u{20}      6         3         0            0       0\n\
         \n\
         FAILED ON  REVISION  REASON\n\
         web-1             7  disk full\n\
         \n\
         fetched 3.0 KiB: patches 2.0 KiB, chunks 1.0 KiB, full 0 B; held already 1.0 MiB\n\
         expected to be done in 3m10s, at 2023-11-14T22:16:30Z\n"
    );
    let last = |change: &dyn Fn(&mut ContentStatus)| {
        let mut changed = whole.clone();
        change(&mut changed);
        status(&changed, plain()).lines().last().unwrap().to_owned()
    };
    assert_eq!(last(&|it| it.expected_finish = at(1_600_000_000)), "expected to be done any moment");
    assert_eq!(last(&|it| it.expected_finish = None), "when it will be done cannot be told yet");
    let settled = |it: &mut ContentStatus| (it.waiting, it.downloading) = (0, 0);
    let failed = "no agent is on its way; what failed is tried again when another revision is assigned";
    assert_eq!(last(&settled), failed);
    let done = |it: &mut ContentStatus| (it.waiting, it.downloading, it.failed) = (0, 0, 0);
    assert_eq!(last(&done), "every agent has what is assigned to it");
    assert_eq!(last(&|it| *it = ContentStatus::default()), "no agent follows this channel");
}

#[test]
fn an_agent_tells_where_each_channel_stands() {
    let content = |state: &str, bytes, reason: &str| AgentContent {
        channel: "definitions/ips".into(),
        active: 6,
        wanted: 7,
        state: state.into(),
        percent: 40,
        bytes: Some(bytes),
        reason: reason.into(),
    };
    let none = ContentBytes::default();
    let agent = Agent {
        content: vec![
            content("received", ContentBytes { chunk: 2_048, held: 9_999, ..none }, ""),
            content("healthy", ContentBytes { patch: 1_024, chunk: 5, ..none }, ""),
            content("failed", none, "hook ended with 1"),
            AgentContent { channel: "a".into(), ..AgentContent::default() },
        ],
        ..Agent::default()
    };
    assert_eq!(
        of_agent(&agent, plain()),
        "CONTENT          STATE          IN FORCE  ASSIGNED  FETCHED                        HELD  REASON\n\
         definitions/ips  received 40 %  6         7         2.0 KiB (chunks)            9.7 KiB  -\n\
         definitions/ips  healthy        6         7         1.0 KiB patch + 5 B chunks      0 B  -\n\
         definitions/ips  failed         6         7         -                               0 B  hook ended with 1\n\
         a                -              -         -         -                               0 B  -\n"
    );
}
