//! Workspaces of a depot, seen by git: what is created is what `git worktree` knows, and what is removed leaves nothing behind.

use std::{
    fs,
    path::{Path, PathBuf},
};

use gitstead::{
    base::{Fault, RepoName, WorkspaceName},
    depot::{Depot, DepotOptions},
    workspace::{CreateWorkspace, ManageError, Start, Unsaved, Workspace, WorkspaceState},
};

use crate::support::Git;

struct House {
    git: Git,
    depot: Depot,
}

fn repo(text: &str) -> RepoName {
    RepoName::parse(text).unwrap()
}

fn ws(text: &str) -> WorkspaceName {
    WorkspaceName::parse(text).unwrap()
}

fn begin(start: Start) -> CreateWorkspace {
    CreateWorkspace::new(start)
}

fn empty(task: &str) -> CreateWorkspace {
    begin(Start::Empty { task: task.to_owned() })
}

impl House {
    fn new() -> Self {
        let git = Git::new();
        let depot = Depot::new(&git.path("data/repos"), DepotOptions::default()).unwrap();
        House { git, depot }
    }

    fn create(&self, name: &str, workspace: &str, create: &CreateWorkspace) -> Result<Workspace, ManageError> {
        self.depot.create_workspace(&repo(name), &ws(workspace), create)
    }

    fn dir(&self, name: &str, workspace: &str) -> PathBuf {
        self.git.path("data/work").join(name).join(workspace)
    }

    fn bare(&self, name: &str) -> PathBuf {
        self.git.path("data/repos").join(format!("{name}.git"))
    }

    /// A repository with a history: `main` with three commits, `side` with one more.
    fn with_history(&self, name: &str) -> PathBuf {
        let source = self.git.init("source");
        self.git.commit(&source, "a.txt", "one", "one");
        self.git.commit(&source, "d/b.txt", "two", "two");
        let tool = source.join("tool");
        fs::write(&tool, "#!/bin/sh\n").unwrap();
        std::os::unix::fs::symlink("a.txt", source.join("link")).unwrap();
        self.git.ok(&source, "add -A");
        self.git.ok(&source, "update-index --chmod=+x tool");
        self.git.ok(&source, "commit -q -m three");
        self.git.ok(&source, "branch side");
        self.git.ok(&source, "tag -a -m v1 v1");
        let bare = self.bare(name);
        fs::create_dir_all(bare.parent().unwrap()).unwrap();
        self.git.ok_args(
            self.git.dir(),
            ["clone", "-q", "--bare", "source", bare.to_str().unwrap()],
        );
        bare
    }
}

#[test]
fn an_empty_workspace_begins_with_its_task() {
    let house = House::new();
    let create = empty("Analyze sales\ndata");
    let workspace = house.create("agent-research", "main", &create).unwrap();
    let dir = house.dir("agent-research", "main");
    assert_eq!(workspace.root(), dir.canonicalize().unwrap());
    let git = &house.git;
    assert_eq!(git.ok(&dir, "log --format=%s"), "Initial task: Analyze sales data");
    assert_eq!(git.ok(&dir, "status --porcelain --branch"), "## main");
    assert_eq!(git.ok(&dir, "ls-files"), "");
    assert_eq!(
        git.ok(&dir, "log --format=%(trailers:key=Gitstead-Checkpoint,valueonly)")
            .trim(),
        "1"
    );
    git.fsck(house.bare("agent-research"));
    // git lists it as its own.
    let listed = git.ok(house.bare("agent-research"), "worktree list --porcelain");
    assert!(
        listed.contains(&format!("worktree {}", workspace.root().display())),
        "{listed}"
    );
    assert!(listed.contains("branch refs/heads/main"), "{listed}");
    assert!(!listed.contains("prunable"), "{listed}");
    git.ok(house.bare("agent-research"), "worktree prune --expire=now");
    assert_eq!(git.ok(&dir, "status --porcelain"), "");
    // And works in it.
    git.commit(&dir, "report.md", "# Report\n", "by git");
    assert_eq!(
        git.ok(house.bare("agent-research"), "log --format=%s -1 main"),
        "by git"
    );
    let again = house.depot.workspace(&repo("agent-research"), &ws("main")).unwrap();
    assert_eq!(again.root(), workspace.root());
    assert_eq!(again.name(), "main");
}

#[test]
fn each_workspace_has_a_branch_of_its_own() {
    let house = House::new();
    let bare = house.with_history("team/app");
    let git = &house.git;
    house.create("team/app", "main", &begin(Start::Default)).unwrap();
    house.create("team/app", "session-1", &begin(Start::Default)).unwrap();
    let second = git.ok(&bare, "rev-parse main~1");
    let at = gix::hash::ObjectId::from_hex(second.as_bytes()).unwrap();
    house.create("team/app", "old", &begin(Start::Commit(at))).unwrap();
    house
        .create("team/app", "s", &begin(Start::Branch("side".into())))
        .unwrap();
    let mut named = begin(Start::Branch("side".into()));
    named.branch = Some("topic/x".into());
    house.create("team/app", "t", &named).unwrap();
    let entries = house.depot.workspaces(&repo("team/app")).unwrap();
    let seen: Vec<_> = entries
        .iter()
        .map(|e| {
            (
                e.name.as_str(),
                e.branch.as_ref().unwrap().to_string(),
                e.managed,
                e.state,
            )
        })
        .collect();
    let ready = WorkspaceState::Ready;
    assert_eq!(
        seen,
        [
            ("main", "refs/heads/main".to_owned(), true, ready),
            ("old", "refs/heads/old".to_owned(), true, ready),
            ("s", "refs/heads/side".to_owned(), true, ready),
            ("session-1", "refs/heads/session-1".to_owned(), true, ready),
            ("t", "refs/heads/topic/x".to_owned(), true, ready),
        ]
    );
    for entry in &entries {
        assert_eq!(git.ok(&entry.root, "status --porcelain"), "", "{}", entry.name);
        assert_eq!(git.ok(&entry.root, "rev-parse HEAD"), entry.commit.unwrap().to_string());
    }
    let old = house.dir("team/app", "old");
    assert_eq!(git.ok(&old, "ls-files"), "a.txt\nd/b.txt");
    assert_eq!(fs::read_to_string(old.join("d/b.txt")).unwrap(), "two");
    let main = house.dir("team/app", "main");
    assert_eq!(fs::read_link(main.join("link")).unwrap(), Path::new("a.txt"));
    assert_eq!(git.ok(&main, "ls-files -s tool").split(' ').next(), Some("100755"));
    git.fsck(&bare);
}

#[test]
fn no_branch_is_in_two_workspaces() {
    let house = House::new();
    let bare = house.with_history("app");
    let git = &house.git;
    house.create("app", "main", &begin(Start::Default)).unwrap();
    let refused = house
        .create("app", "x", &begin(Start::Branch("main".into())))
        .unwrap_err();
    assert!(matches!(refused, ManageError::BranchInUse { .. }), "{refused}");
    // Nor in one that git made.
    git.ok(
        &bare,
        &format!("worktree add -q {} side", git.path("elsewhere").display()),
    );
    let refused = house
        .create("app", "x", &begin(Start::Branch("side".into())))
        .unwrap_err();
    assert!(matches!(refused, ManageError::BranchInUse { .. }), "{refused}");
    for (start, branch) in [
        (Start::Branch("none".into()), None),
        (
            Start::Commit(gix::hash::ObjectId::empty_blob(gix::hash::Kind::Sha1)),
            None,
        ),
        (Start::Default, Some("a..b")),
        (Start::Empty { task: "t".into() }, None),
    ] {
        let mut create = begin(start);
        create.branch = branch.map(Into::into);
        let refused = house.create("app", "x", &create).unwrap_err();
        assert_ne!(refused.fault(), Fault::Ours, "{refused}");
        assert!(!house.dir("app", "x").exists());
    }
    let refused = house.create("app", "main", &begin(Start::Default)).unwrap_err();
    assert!(matches!(refused, ManageError::Exists { .. }), "{refused}");
    // A directory of somebody's is not taken over.
    fs::create_dir_all(house.dir("app", "y")).unwrap();
    let refused = house.create("app", "y", &begin(Start::Default)).unwrap_err();
    assert!(matches!(refused, ManageError::InTheWay { .. }), "{refused}");
    assert!(
        git.run(&bare, ["rev-parse", "-q", "--verify", "refs/heads/y"])
            .stdout
            .is_empty()
    );
    assert_eq!(house.depot.workspaces(&repo("app")).unwrap().len(), 2);
}

#[test]
fn a_fork_needs_nothing_of_its_source() {
    let house = House::new();
    let bare = house.with_history("app");
    let git = &house.git;
    let fork = begin(Start::Fork {
        source: repo("app"),
        at: None,
    });
    house.create("fork", "main", &fork).unwrap();
    let forked = house.bare("fork");
    let refs = |dir: &Path| git.ok(dir, "for-each-ref --format=%(refname)%(objectname)");
    assert_eq!(refs(&forked), refs(&bare));
    assert!(!forked.join("objects/info/alternates").exists());
    // What happens to one does not happen to the other.
    git.ok(&bare, "repack -adq");
    fs::remove_dir_all(&bare).unwrap();
    git.fsck(&forked);
    let main = house.dir("fork", "main");
    assert_eq!(git.ok(&main, "status --porcelain"), "");
    assert_eq!(git.ok(&main, "log --format=%s"), "three\ntwo\none");
    git.commit(&main, "new", "n", "goes on");
}

#[test]
fn a_removed_workspace_leaves_its_branch_and_nothing_else() {
    let house = House::new();
    let bare = house.with_history("app");
    let git = &house.git;
    let remove = |name: &str, unsaved: Unsaved<'_>| house.depot.remove_workspace(&repo("app"), &ws(name), unsaved);
    house.create("app", "one", &begin(Start::Default)).unwrap();
    house.create("app", "two", &begin(Start::Default)).unwrap();
    let refused = house.depot.delete(&repo("app")).unwrap_err();
    assert!(refused.to_string().contains("workspaces"), "{refused}");
    remove("one", Unsaved::Refuse).unwrap();
    let two = house.dir("app", "two");
    git.commit(&two, "kept", "k", "kept");
    fs::write(two.join("unsaved"), "work").unwrap();
    let refused = remove("two", Unsaved::Refuse).unwrap_err();
    assert!(matches!(refused, ManageError::Unsaved { .. }), "{refused}");
    assert_eq!(fs::read(two.join("unsaved")).unwrap(), b"work");
    let mut save = |held: &mut gitstead::workspace::Held<'_>| -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        Err(format!("no room for {}", held.root().display()).into())
    };
    let refused = remove("two", Unsaved::Save(&mut save)).unwrap_err();
    assert!(matches!(refused, ManageError::Save { .. }), "{refused}");
    assert!(two.join("unsaved").exists());
    // Whatever the agent has done to its permissions, and wherever its links lead.
    let outside = git.path("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("file"), "kept").unwrap();
    std::os::unix::fs::symlink(&outside, two.join("out")).unwrap();
    remove("two", Unsaved::Discard).unwrap();
    assert!(outside.join("file").exists());
    assert!(!house.git.path("data/work/app").exists());
    assert!(!bare.join("worktrees").exists());
    assert_eq!(git.ok(&bare, "log --format=%s -1 two"), "kept");
    git.fsck(&bare);
    let refused = remove("two", Unsaved::Refuse).unwrap_err();
    assert!(matches!(refused, ManageError::NotFound { .. }), "{refused}");
    // It can be had again, as it was left.
    house.create("app", "main", &begin(Start::Default)).unwrap();
    house.create("app", "two", &begin(Start::Default)).unwrap();
    assert_eq!(git.ok(house.dir("app", "two"), "log --format=%s -1"), "kept");
    remove("two", Unsaved::Refuse).unwrap();
    remove("main", Unsaved::Refuse).unwrap();
    house.depot.delete(&repo("app")).unwrap();
}

#[test]
fn commits_on_no_branch_are_not_lost_with_a_workspace() {
    let house = House::new();
    let bare = house.with_history("app");
    let git = &house.git;
    house.create("app", "one", &begin(Start::Default)).unwrap();
    let one = house.dir("app", "one");
    git.ok(&one, "checkout -q --detach");
    let stray = git.commit(&one, "stray", "s", "stray");
    let refused = house
        .depot
        .remove_workspace(&repo("app"), &ws("one"), Unsaved::Refuse)
        .unwrap_err();
    assert!(refused.to_string().contains("no branch"), "{refused}");
    let mut save = |_: &mut gitstead::workspace::Held<'_>| Ok(());
    house
        .depot
        .remove_workspace(&repo("app"), &ws("one"), Unsaved::Save(&mut save))
        .unwrap();
    let kept = git.ok(&bare, "for-each-ref --format=%(objectname) refs/gitstead/removed/one");
    assert_eq!(kept, stray);
}

#[test]
fn a_data_directory_can_be_moved_as_a_whole() {
    let house = House::new();
    house.with_history("team/app");
    house.create("team/app", "main", &begin(Start::Default)).unwrap();
    let git = house.git;
    drop(house.depot);
    fs::rename(git.path("data"), git.path("moved")).unwrap();
    let dir = git.path("moved/work/team/app/main");
    assert_eq!(git.ok(&dir, "status --porcelain --branch"), "## main");
    let depot = Depot::new(&git.path("moved/repos"), DepotOptions::default()).unwrap();
    assert_eq!(
        depot.workspaces(&repo("team/app")).unwrap()[0].state,
        WorkspaceState::Ready
    );
    let workspace = depot.workspace(&repo("team/app"), &ws("main")).unwrap();
    assert_eq!(workspace.root(), dir.canonicalize().unwrap());
    let listed = git.ok(git.path("moved/repos/team/app.git"), "worktree list");
    assert!(listed.contains(dir.to_str().unwrap()), "{listed}");
}

#[test]
fn what_is_gone_or_made_by_git_is_told() {
    let house = House::new();
    let bare = house.with_history("app");
    let git = &house.git;
    house.create("app", "one", &begin(Start::Default)).unwrap();
    git.ok(&bare, &format!("worktree add -q {} side", git.path("by-git").display()));
    fs::remove_dir_all(house.dir("app", "one")).unwrap();
    let entries = house.depot.workspaces(&repo("app")).unwrap();
    let seen: Vec<_> = entries.iter().map(|e| (e.name.as_str(), e.managed, e.state)).collect();
    assert_eq!(
        seen,
        [
            ("by-git", false, WorkspaceState::Ready),
            ("one", true, WorkspaceState::Missing)
        ]
    );
    let missing = house.depot.workspace(&repo("app"), &ws("one")).unwrap_err();
    assert!(matches!(missing, ManageError::Missing { .. }), "{missing}");
    let by_git = house.depot.workspace(&repo("app"), &ws("by-git")).unwrap();
    assert_eq!(by_git.root(), git.path("by-git").canonicalize().unwrap());
    // `git worktree lock` is respected.
    git.ok(
        &bare,
        &format!("worktree lock --reason mine {}", git.path("by-git").display()),
    );
    let refused = house
        .depot
        .remove_workspace(&repo("app"), &ws("by-git"), Unsaved::Refuse)
        .unwrap_err();
    assert!(matches!(refused, ManageError::Locked { .. }), "{refused}");
    house
        .depot
        .remove_workspace(&repo("app"), &ws("one"), Unsaved::Refuse)
        .unwrap();
}

#[test]
fn a_link_in_place_of_a_workspace_is_none() {
    let house = House::new();
    house.with_history("app");
    house.create("app", "one", &begin(Start::Default)).unwrap();
    let dir = house.dir("app", "one");
    fs::rename(&dir, house.git.path("away")).unwrap();
    // It leads back to the repository, from wherever it lies.
    let way = house.bare("app").canonicalize().unwrap().join("worktrees/one");
    fs::write(house.git.path("away/.git"), format!("gitdir: {}\n", way.display())).unwrap();
    std::os::unix::fs::symlink(house.git.path("away"), &dir).unwrap();
    let missing = house.depot.workspace(&repo("app"), &ws("one")).unwrap_err();
    assert!(matches!(missing, ManageError::Missing { .. }), "{missing}");
    house
        .depot
        .remove_workspace(&repo("app"), &ws("one"), Unsaved::Discard)
        .unwrap();
    assert!(house.git.path("away/a.txt").exists());
}

#[test]
fn workspaces_are_not_kept_among_repositories() {
    let git = Git::new();
    let options = DepotOptions {
        work: Some(git.path("repos/work")),
        ..DepotOptions::default()
    };
    let depot = Depot::new(&git.path("repos"), options).unwrap();
    let refused = depot
        .create_workspace(&repo("a"), &ws("main"), &empty("t"))
        .unwrap_err();
    assert!(matches!(refused, ManageError::Place { .. }), "{refused}");
    assert!(!depot.contains(&repo("a")).unwrap());
}

#[test]
fn sha256_repositories_have_workspaces_too() {
    let house = House::new();
    let mut create = empty("task");
    create.repository.object_format = gix::hash::Kind::Sha256;
    house.create("a", "main", &create).unwrap();
    let dir = house.dir("a", "main");
    assert_eq!(house.git.ok(&dir, "rev-parse --show-object-format"), "sha256");
    assert_eq!(house.git.ok(&dir, "status --porcelain"), "");
    house.git.fsck(house.bare("a"));
}
