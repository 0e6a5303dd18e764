//! One life of a repository with every git client of this machine, old and new, in every protocol version, against one server and against each other.

use crate::support::{Git, Server};

#[test]
fn every_client_of_this_machine_is_served() {
    let server = Server::start();
    let maker = Git::new();
    let work = maker.init("work");
    maker.generate(&work, 30, 20);
    maker.ok(&work, "reset -q --hard main");
    let url = server.repo_url("shared");
    maker.ok(&work, &format!("push -q {url} main"));
    let bare = server.repos().join("shared.git");
    maker.ok(&bare, "config uploadpack.allowFilter true");
    // In versions 0 and 1 a client asks for the blobs that it lacks only where this is advertised.
    maker.ok(&bare, "config uploadpack.allowAnySHA1InWant true");

    for (name, program) in Git::all() {
        for version in [0, 1, 2] {
            let git = Git::new().program(program.clone()).protocol(version);
            let what = format!("{name}, version {version}");
            let copy = git.path("copy");
            git.ok(git.dir(), &format!("clone -q {url} copy"));
            git.ok(git.dir(), &format!("clone -q --depth 3 {url} shallow"));
            git.ok(git.dir(), &format!("clone -q --filter=blob:none {url} blobless"));
            assert_eq!(git.ok(git.path("blobless"), "status --porcelain"), "", "{what}");
            assert_eq!(git.ok(git.path("shallow"), "rev-list --count HEAD"), "3", "{what}");

            git.commit(&copy, "new.txt", format!("{what}\n"), &what);
            let topic = format!("topic-{version}");
            git.ok(&copy, &format!("push -q origin HEAD:main HEAD:refs/heads/{topic}"));
            git.ok(
                &copy,
                &format!("push -q --atomic origin :{topic} HEAD:refs/tags/{topic}"),
            );
            git.fails(&copy, "push -q origin HEAD~1:main");
            git.ok(&copy, &format!("push -q origin :refs/tags/{topic}"));

            git.ok(git.path("shallow"), "fetch -q --unshallow");
            git.ok(git.path("blobless"), "pull -q --ff-only");
            let tip = git.ok(&copy, "rev-parse HEAD");
            for other in ["shallow", "blobless"] {
                let dir = git.path(other);
                assert_eq!(git.ok(&dir, "rev-parse origin/main"), tip, "{other} of {what}");
                git.fsck(&dir);
            }
            assert_eq!(
                git.ok(git.path("shallow"), "rev-list --count origin/main"),
                git.ok(&copy, "rev-list --count main"),
                "{what}"
            );
        }
    }
    maker.fsck(&bare);
}
