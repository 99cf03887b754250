//! `hf://org/repo[/path][@revision]`: files of the Hugging Face hub, fetched once into the local cache.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use hf_hub::api::sync::ApiBuilder;
use hf_hub::{Cache, Repo, RepoType};

use crate::error::{Error, Result};

/// Weight files a repository may offer, the preferred first; each may lie in the folder `transformer`.
const WEIGHTS: [&str; 8] = [
    "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.safetensors.index.json",
    "diffusion_pytorch_model.bin",
    "diffusion_pytorch_model.bin.index.json",
    "model.safetensors",
    "model.safetensors.index.json",
    "model.pt",
    "checkpoint.pt",
];

/// Turns a model's name into a local path. Anything but `hf://…` is a path already. Of a repository without a path the
/// diffusers transformer is taken, else its only weight file. `HF_HUB_OFFLINE=1` uses the cache alone.
///
/// # Errors
/// A malformed name, a repository or file that does not exist, no network, or nothing cached while offline.
pub fn resolve(name: &str) -> Result<PathBuf> {
    let Some(rest) = name.strip_prefix("hf://") else { return Ok(name.into()) };
    let address = Address::parse(rest)
        .map_err(|why| Error::Usage(format!("{name}: {why}; expected hf://org/repo[/path][@revision]")))?;
    let offline =
        std::env::var("HF_HUB_OFFLINE").is_ok_and(|v| !matches!(v.as_str(), "" | "0" | "false" | "FALSE"));
    let remote = if offline { Remote::offline(&address) } else { Remote::online(&address) };
    let remote = remote.map_err(|why| Error::Usage(format!("{name}: {why}")))?;
    let choice = choose(&remote.files, address.path.as_deref())
        .map_err(|why| Error::Usage(format!("{name}: {why}")))?;
    let first = remote.get(&choice.open).map_err(|why| Error::Usage(format!("{name}: {why}")))?;
    for file in &choice.beside {
        remote.get(file).map_err(|why| Error::Usage(format!("{name}: {why}")))?;
    }
    if choice.open.ends_with(".index.json") {
        for shard in shards(&first)? {
            let shard = sibling(&choice.open, &shard);
            remote.get(&shard).map_err(|why| Error::Usage(format!("{name}: {why}")))?;
        }
    }
    Ok(first)
}

/// The parts of an address.
#[derive(Debug, PartialEq)]
struct Address {
    repo: String,
    path: Option<String>,
    revision: String,
}

impl Address {
    fn parse(text: &str) -> Result<Self, String> {
        let (place, revision) = text.rsplit_once('@').unwrap_or((text, "main"));
        let mut parts = place.trim_end_matches('/').splitn(3, '/');
        let (org, repo, path) = (parts.next().unwrap_or(""), parts.next().unwrap_or(""), parts.next());
        if org.is_empty() || repo.is_empty() || revision.is_empty() {
            return Err("the organisation, the repository or the revision is empty".into());
        }
        // The pieces become folders of the cache.
        let all = [org, repo].into_iter().chain(path.unwrap_or("x").split('/')).chain(revision.split('/'));
        if all.into_iter().any(|part| matches!(part, "" | "." | "..")) {
            return Err("a part of the path is empty or made of dots".into());
        }
        Ok(Self { repo: format!("{org}/{repo}"), path: path.map(Into::into), revision: revision.into() })
    }

    fn repo(&self) -> Repo {
        Repo::with_revision(self.repo.clone(), RepoType::Model, self.revision.clone())
    }
}

/// A repository at a revision: the files it has, and how to get one.
struct Remote {
    files: Vec<String>,
    api: Option<hf_hub::api::sync::ApiRepo>,
    folder: PathBuf,
}

impl Remote {
    fn online(address: &Address) -> Result<Self, String> {
        let unreachable = |e: hf_hub::api::sync::ApiError| {
            let (repo, revision) = (&address.repo, &address.revision);
            format!(
                "cannot list {repo} at revision {revision} on the Hugging Face hub: {e}. Check the name and the network; a private \
                 repository needs HF_TOKEN or a login; HF_HUB_OFFLINE=1 uses what is cached"
            )
        };
        let token = std::env::var("HF_TOKEN").ok().filter(|token| !token.is_empty());
        let mut builder = ApiBuilder::from_env();
        if token.is_some() {
            builder = builder.with_token(token);
        }
        let api = builder.build().map_err(unreachable)?.repo(address.repo());
        let info = api.info().map_err(unreachable)?;
        let files = info.siblings.into_iter().map(|s| s.rfilename).collect();
        Ok(Self { files, api: Some(api), folder: PathBuf::new() })
    }

    fn offline(address: &Address) -> Result<Self, String> {
        Self::cached(address, Cache::from_env().path())
    }

    fn cached(address: &Address, cache: &Path) -> Result<Self, String> {
        let repo = cache.join(address.repo().folder_name());
        // A full commit hash has no reference file.
        let commit = std::fs::read_to_string(repo.join("refs").join(&address.revision))
            .unwrap_or(address.revision.clone());
        let folder = repo.join("snapshots").join(commit.trim());
        if !folder.is_dir() {
            let (name, revision) = (&address.repo, &address.revision);
            return Err(format!(
                "{name} at revision {revision} is not in the cache {} and HF_HUB_OFFLINE is set; fetch it once online",
                cache.display()
            ));
        }
        let mut files = Vec::new();
        for relative in
            ["", "transformer/"].map(String::from).into_iter().chain(address.path.clone().map(|p| p + "/"))
        {
            let Ok(entries) = std::fs::read_dir(folder.join(&relative)) else { continue };
            let names = entries.flatten().filter(|entry| entry.path().is_file());
            files
                .extend(names.filter_map(|entry| Some(format!("{relative}{}", entry.file_name().to_str()?))));
        }
        files.extend(address.path.clone().filter(|path| folder.join(path).is_file()));
        files.sort();
        files.dedup();
        Ok(Self { files, api: None, folder })
    }

    fn get(&self, file: &str) -> Result<PathBuf, String> {
        match &self.api {
            Some(api) => {
                api.get(file).map_err(|e| format!("cannot fetch {file} from the Hugging Face hub: {e}"))
            }
            None => Some(self.folder.join(file)).filter(|path| path.is_file()).ok_or_else(|| {
                format!("{file} is not in the cache ({}) and HF_HUB_OFFLINE is set", self.folder.display())
            }),
        }
    }
}

/// The file to open, and others that must lie beside it.
#[derive(Debug, PartialEq)]
struct Choice {
    open: String,
    beside: Vec<String>,
}

/// Chooses among a repository's files: the one asked for, or the weights in the folder asked for.
fn choose(files: &[String], path: Option<&str>) -> Result<Choice, String> {
    let has = |file: &str| files.iter().any(|f| f == file);
    let open = match path {
        Some(path) if has(path) => path.to_owned(),
        _ => weights_in(files, path)?,
    };
    let config = sibling(&open, "config.json");
    let beside = Vec::from_iter(Some(config).filter(|config| *config != open && has(config)));
    Ok(Choice { open, beside })
}

fn weights_in(files: &[String], folder: Option<&str>) -> Result<String, String> {
    let prefix = folder.map_or(String::new(), |folder| format!("{folder}/"));
    let known =
        ["transformer/", ""].iter().flat_map(|inner| WEIGHTS.map(|name| format!("{prefix}{inner}{name}")));
    if let Some(found) = known.into_iter().find(|name| files.contains(name)) {
        return Ok(found);
    }
    let is_weights =
        |name: &str| [".pt", ".pth", ".safetensors", ".bin"].iter().any(|end| name.ends_with(end));
    let offered: Vec<&String> =
        files.iter().filter(|name| name.starts_with(&prefix) && is_weights(name)).collect();
    match offered[..] {
        [only] => Ok(only.clone()),
        [] => Err(match folder {
            Some(path) => {
                format!("the repository has no file {path}, and no weights in a folder of that name")
            }
            None => "the repository has no weight file that can be read".into(),
        }),
        _ => {
            let names: Vec<_> = offered.iter().take(10).map(|name| name.as_str()).collect();
            Err(format!(
                "the repository has {} weight files; name one of: {}",
                offered.len(),
                names.join(", ")
            ))
        }
    }
}

fn sibling(file: &str, name: &str) -> String {
    match file.rsplit_once('/') {
        Some((folder, _)) => format!("{folder}/{name}"),
        None => name.to_owned(),
    }
}

/// The distinct shard names in an index; they lie beside it, so none may hold a path.
fn shards(index: &Path) -> Result<BTreeSet<String>> {
    let invalid = |detail: String| Error::invalid(index, detail);
    let bytes = std::fs::read(index).map_err(|e| Error::io("read", index, e))?;
    let json: serde_json::Value =
        serde_json::from_slice(&bytes).map_err(|e| invalid(format!("is not JSON: {e}")))?;
    let map = json["weight_map"].as_object().ok_or_else(|| invalid("has no object weight_map".into()))?;
    let plain = |file: &serde_json::Value| {
        let name = file.as_str().filter(|name| Path::new(name).file_name().is_some_and(|last| last == *name));
        name.map(String::from)
            .ok_or_else(|| invalid(format!("weight_map names {file}; expected the name of a file beside it")))
    };
    map.values().map(plain).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| name.to_string()).collect()
    }

    #[test]
    fn addresses() {
        let parsed = Address::parse("org/repo/a/b.pt@v1").unwrap();
        assert_eq!(
            parsed,
            Address { repo: "org/repo".into(), path: Some("a/b.pt".into()), revision: "v1".into() }
        );
        assert_eq!(Address::parse("org/repo").unwrap().revision, "main");
        for bad in ["", "org", "org/", "org/repo/../../x", "org/repo@", "org/repo@../x", "../repo"] {
            assert!(Address::parse(bad).is_err(), "{bad}");
        }
        assert_eq!(resolve("some/file.pt").unwrap(), Path::new("some/file.pt"));
    }

    #[test]
    fn chooses_weights() {
        let pipeline = strings(&[
            "transformer/config.json",
            "transformer/diffusion_pytorch_model.bin",
            "vae/diffusion_pytorch_model.bin",
        ]);
        let choice = choose(&pipeline, None).unwrap();
        assert_eq!(choice.open, "transformer/diffusion_pytorch_model.bin");
        assert_eq!(choice.beside, ["transformer/config.json"]);
        assert_eq!(choose(&pipeline, Some("vae")).unwrap().open, "vae/diffusion_pytorch_model.bin");
        assert_eq!(choose(&strings(&["README.md", "DiT-XL-2.pt"]), None).unwrap().open, "DiT-XL-2.pt");
        assert!(choose(&strings(&["a.pt", "b.pt"]), None).unwrap_err().contains("name one of: a.pt, b.pt"));
        assert!(choose(&pipeline, Some("x.pt")).unwrap_err().contains("no file x.pt"));
    }

    #[test]
    fn the_cache_alone() {
        let cache = tempfile::tempdir().unwrap();
        let repo = cache.path().join("models--org--repo");
        std::fs::create_dir_all(repo.join("refs")).unwrap();
        std::fs::create_dir_all(repo.join("snapshots/abc/sub")).unwrap();
        std::fs::write(repo.join("refs/main"), "abc").unwrap();
        std::fs::write(repo.join("snapshots/abc/sub/model.pt"), "x").unwrap();
        let address = Address::parse("org/repo/sub/model.pt").unwrap();
        let remote = Remote::cached(&address, cache.path()).unwrap();
        let choice = choose(&remote.files, address.path.as_deref()).unwrap();
        assert!(remote.get(&choice.open).unwrap().ends_with("snapshots/abc/sub/model.pt"));
        assert!(remote.get("other.pt").unwrap_err().contains("HF_HUB_OFFLINE"));
        let missing = Address::parse("org/repo@v2").unwrap();
        assert!(Remote::cached(&missing, cache.path()).err().unwrap().contains("not in the cache"));
    }
}
