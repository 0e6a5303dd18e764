use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{AgentSpec, SandboxMode, SessionError};
use crate::agent::{Bounds, Container};

/// What a client of a container engine may need of our environment.
const CLIENT: [&str; 17] = [
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "TMPDIR",
    "XDG_RUNTIME_DIR",
    "XDG_CONFIG_HOME",
    "XDG_DATA_HOME",
    "SSH_AUTH_SOCK",
    "DOCKER_HOST",
    "DOCKER_CONFIG",
    "DOCKER_CONTEXT",
    "DOCKER_CERT_PATH",
    "DOCKER_TLS_VERIFY",
    "DOCKER_API_VERSION",
    "CONTAINER_HOST",
    "CONTAINER_SSHKEY",
];
/// Bytes of a name.
const NAME: usize = 128;

/// A running container in which an agent is started, instead of beside us.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ContainerSpec {
    /// Its name or id.
    pub name: String,
    /// Who the agent is in it, if not who the container says.
    #[serde(default)]
    pub user: Option<String>,
    /// Where it has the workspace, if not at the same path as we do.
    #[serde(default)]
    pub workspace: Option<PathBuf>,
    /// The home directory of the agent in it, if not the one that the engine takes from the container's own list of users.
    #[serde(default)]
    pub home: Option<PathBuf>,
}

impl ContainerSpec {
    /// Checks what can be checked before.
    pub(super) fn check(&self, spec: &AgentSpec) -> Result<(), SessionError> {
        let invalid = |why: &str| Err(SessionError::Invalid { why: why.to_owned() });
        let is_word = |text: &str, more: &str| {
            let sound = |c: char| c.is_ascii_alphanumeric() || more.contains(c);
            text.starts_with(|c: char| c.is_ascii_alphanumeric()) && text.chars().all(sound) && text.len() <= NAME
        };
        if !is_word(&self.name, "_.-") {
            return invalid("this is not the name of a container");
        }
        if self.user.as_deref().is_some_and(|user| !is_word(user, "_.-:@")) {
            return invalid("this is not the name of a user in a container");
        }
        let is_path = |path: &Path| path.is_absolute() && !path.as_os_str().as_encoded_bytes().contains(&0);
        if self.workspace.as_deref().is_some_and(|path| !is_path(path)) {
            return invalid("where a container has the workspace is an absolute path");
        }
        if self
            .home
            .as_deref()
            .is_some_and(|path| !is_path(path) || path.to_str().is_none())
        {
            return invalid("a home directory in a container is an absolute path");
        }
        if spec.sandbox.mode != SandboxMode::Off {
            return invalid("a sandbox does not reach into a container: an agent has the one or the other");
        }
        let mut names = spec.env.keys().chain(spec.secrets.keys()).chain(&spec.inherit);
        if names.any(|name| Container::is_engines(name)) {
            return invalid("which engine a container is of is for this server's own environment to say");
        }
        if spec.secrets.keys().any(|name| Container::is_clients(name)) {
            return invalid(
                "what a client of the container's engine goes by itself is handed on in an argument, and is no secret",
            );
        }
        let Bounds {
            open_files,
            address_space,
            processes,
            memory,
            memory_high,
            tasks,
            cpu_percent,
            file_bytes,
            io_bytes_per_second,
            ..
        } = spec.bounds;
        let own = [
            open_files,
            address_space,
            processes,
            memory,
            memory_high,
            tasks,
            cpu_percent.map(u64::from),
            file_bytes,
            io_bytes_per_second,
        ];
        if own.iter().any(Option::is_some) {
            return invalid("what is in a container is bounded by what bounds the container");
        }
        Ok(())
    }

    /// Who it is in there, as programs ask for it: nothing of that is as it is here.
    pub(super) fn identity(&self) -> Vec<(&'static str, String)> {
        let name = self.user.as_deref().and_then(|user| user.split(':').next());
        let name = name.filter(|name| !name.bytes().all(|b| b.is_ascii_digit()));
        let named = name.map(|name| [("USER", name.to_owned()), ("LOGNAME", name.to_owned())]);
        let home = self.home.as_deref().and_then(Path::to_str);
        let mut all: Vec<_> = named.into_iter().flatten().collect();
        all.extend(home.map(|home| ("HOME", home.to_owned())));
        all
    }

    /// Where the agent begins, by the same way in its workspace as outside.
    pub(super) fn at(&self, root: &Path, cwd: &Path) -> PathBuf {
        let below = cwd.strip_prefix(root).unwrap_or(Path::new(""));
        let dir = self.root(root).join(below);
        // Without the slash that joining nothing leaves.
        dir.components().collect()
    }

    /// The workspace as the agent sees it.
    pub(super) fn root<'a>(&'a self, root: &'a Path) -> &'a Path {
        self.workspace.as_deref().unwrap_or(root)
    }

    /// How it is reached.
    pub(super) fn reached(
        &self,
        program: Option<&str>,
        dir: PathBuf,
        own: impl Fn(&str) -> Option<std::ffi::OsString>,
    ) -> Container {
        let known = |name: &&str| {
            let value = own(name).and_then(|value| value.into_string().ok());
            let usual = || (*name == "PATH").then(|| super::env::PATH.to_owned());
            Some((
                (*name).to_owned(),
                value.filter(|value| !value.is_empty()).or_else(usual)?,
            ))
        };
        Container {
            program: program.unwrap_or("docker").to_owned(),
            name: self.name.clone(),
            user: self.user.clone(),
            dir,
            client_env: CLIENT.iter().filter_map(known).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::Place;

    #[test]
    fn what_a_container_cannot_be_given_is_refused_before() {
        let place = Place::parse("demo", "main").expect("names");
        let mut sound = AgentSpec::new(&place, vec!["sh".to_owned()]);
        sound.container = Some(ContainerSpec {
            name: "dg-demo_1".to_owned(),
            user: Some("1000:1000".to_owned()),
            workspace: Some("/work".into()),
            home: None,
        });
        assert!(sound.check().is_ok());
        let wrong = |change: fn(&mut AgentSpec, &mut ContainerSpec)| {
            let mut spec = sound.clone();
            let mut container = sound.container.clone().expect("it has one");
            change(&mut spec, &mut container);
            spec.container = Some(container);
            spec.check().expect_err("it is wrong").to_string()
        };
        assert!(wrong(|_, container| container.name = "--privileged".to_owned()).contains("name of a container"));
        assert!(wrong(|_, container| container.name = String::new()).contains("name of a container"));
        assert!(wrong(|_, container| container.user = Some("-it".to_owned())).contains("user"));
        assert!(wrong(|_, container| container.workspace = Some("work".into())).contains("absolute"));
        assert!(wrong(|_, container| container.home = Some("dev".into())).contains("absolute"));
        assert!(wrong(|spec, _| spec.sandbox.mode = SandboxMode::BestEffort).contains("sandbox"));
        let engine = |spec: &mut AgentSpec, _: &mut ContainerSpec| {
            spec.env.insert("DOCKER_HOST".to_owned(), "tcp://elsewhere".to_owned());
        };
        assert!(wrong(engine).contains("which engine"));
        let secret = |spec: &mut AgentSpec, _: &mut ContainerSpec| {
            spec.secrets.insert("HOME".to_owned(), "/key".into());
        };
        assert!(wrong(secret).contains("no secret"));
        assert!(wrong(|spec, _| spec.bounds.memory = Some(1)).contains("bounds"));
        let container = sound.container.expect("it has one");
        let at = |cwd: &str| container.at(Path::new("/data/ws"), Path::new(cwd));
        assert_eq!(at("/data/ws"), Path::new("/work"));
        assert_eq!(at("/data/ws").as_os_str(), "/work");
        assert_eq!(at("/data/ws/a/b"), Path::new("/work/a/b"));
    }
}
