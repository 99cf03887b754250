//! Where the weight file is looked for, and how it is fetched.

use std::path::{Path, PathBuf};

use crate::atomic;
use crate::checkpoint;
use crate::download;
use crate::error::{Error, Result};

/// The published file: TensorFlow's Inception of 2015, converted by the authors of pytorch-fid. Eight digits of its
/// SHA-256 stand in the name.
pub const FILE: &str = "pt_inception-2015-12-05-6726825d.pth";
/// Where its authors published it.
pub const ADDRESS: &str = "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth";
/// The file's SHA-256.
pub const SHA256: &str = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2";
/// Largest download accepted; the file has 95,628,359 bytes.
const MAX_DOWNLOAD: u64 = 128 << 20;

/// Finds the weights: `given`, a path or an `hf://` name; without it [`FILE`] in Scion's cache (`$SCION_CACHE/inception`,
/// else `$XDG_CACHE_HOME/scion/inception`, else `~/.cache/scion/inception`) or in that of PyTorch
/// (`$TORCH_HOME/hub/checkpoints`, else `~/.cache/torch/hub/checkpoints`), where pytorch-fid keeps it; else fetches
/// [`ADDRESS`] into Scion's cache. A file of that name is checked by its SHA-256, wherever it lies.
///
/// # Errors
/// `Usage` if it is nowhere and cannot be fetched, with the address, the hash and the folder to put it; `Invalid` if a file
/// of that name is another one; `Io` if one cannot be read or written; those of [`checkpoint::resolve`].
pub fn locate(given: Option<&str>) -> Result<PathBuf> {
    match given {
        Some(name) => verified(checkpoint::resolve(name)?),
        None => find_or_download(&folders(), ADDRESS),
    }
}

/// The caches, Scion's own first.
fn folders() -> Vec<PathBuf> {
    let torch = download::variable("TORCH_HOME").or_else(|| Some(download::user_cache()?.join("torch")));
    download::cache_folder("inception")
        .into_iter()
        .chain(torch.map(|home| home.join("hub/checkpoints")))
        .collect()
}

fn find_or_download(folders: &[PathBuf], address: &str) -> Result<PathBuf> {
    if let Some(found) = folders.iter().map(|folder| folder.join(FILE)).find(|path| path.is_file()) {
        return verified(found);
    }
    let failure = match folders.first() {
        Some(folder) => match download(folder, address)? {
            Ok(path) => return Ok(path),
            Err(why) => format!("cannot fetch them ({why})"),
        },
        None => "there is no home folder to keep them in".into(),
    };
    let places: Vec<_> = folders.iter().map(|folder| folder.display().to_string()).collect();
    Err(Error::Usage(format!(
        "the Inception weights {FILE} are in none of the folders {}, and {failure}. Fetch {ADDRESS} (95,628,359 bytes, \
         SHA-256 {SHA256}) into one of them, or name the file with --inception",
        places.join(", ")
    )))
}

/// Fetches the file into `folder`. The inner error says why that failed, the outer one that the disk refuses the file.
fn download(folder: &Path, address: &str) -> Result<Result<PathBuf, String>> {
    tracing::info!(url = %address, "downloading the Inception weights, 96 MB");
    let path = folder.join(FILE);
    let bytes = match download::fetch(address, MAX_DOWNLOAD) {
        Ok(bytes) => bytes,
        Err(why) => return Ok(Err(format!("{address}: {why}"))),
    };
    if let Err(why) = check(&path, &bytes) {
        return Ok(Err(format!("{address}: {why}")));
    }
    std::fs::create_dir_all(folder).map_err(|e| Error::io("create", folder, e))?;
    atomic::write(&path, &bytes)?;
    Ok(Ok(path))
}

/// The path, if its file is what its name says.
fn verified(path: PathBuf) -> Result<PathBuf> {
    if path.file_name().is_some_and(|name| name == FILE) {
        let bytes = std::fs::read(&path).map_err(|e| Error::io("read", &path, e))?;
        check(&path, &bytes)?;
    }
    Ok(path)
}

fn check(path: &Path, bytes: &[u8]) -> Result<()> {
    let found = download::sha256(bytes);
    if found == SHA256 {
        return Ok(());
    }
    let detail = format!(
        "its {} bytes have SHA-256 {found}, expected {SHA256}: it is truncated, damaged or another file; fetch {ADDRESS} again",
        bytes.len()
    );
    Err(Error::invalid(path, detail))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    /// Nothing listens there.
    const NOWHERE: &str = "http://127.0.0.1:1/file";

    #[test]
    fn missing_weights_say_how_to_get_them() {
        let folder = tempfile::tempdir().unwrap();
        let folders = [folder.path().join("a"), folder.path().join("b")];
        let message = find_or_download(&folders, NOWHERE).unwrap_err().to_string();
        for part in [ADDRESS, SHA256, "--inception", NOWHERE] {
            assert!(message.contains(part), "{message} lacks {part}");
        }
        assert!(folders.iter().all(|folder| message.contains(&folder.display().to_string())), "{message}");
        assert!(!folders[0].exists());
        let homeless = find_or_download(&[], NOWHERE).unwrap_err().to_string();
        assert!(homeless.contains("no home folder") && homeless.contains(ADDRESS), "{homeless}");
        let name = ADDRESS.rsplit('/').next().unwrap();
        assert!(name == FILE && FILE.contains(&SHA256[..8]));
    }

    #[test]
    fn another_file_of_that_name_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        std::fs::write(&path, b"something else").unwrap();
        let cached =
            find_or_download(&[folder.path().join("none"), folder.path().into()], NOWHERE).unwrap_err();
        let named = locate(path.to_str()).unwrap_err();
        for message in [cached.to_string(), named.to_string()] {
            assert!(message.contains("its 14 bytes have SHA-256") && message.contains(ADDRESS), "{message}");
        }
        // A file of another name is the user's own affair.
        let own = folder.path().join("my-weights.pth");
        std::fs::copy(&path, &own).unwrap();
        assert_eq!(locate(own.to_str()).unwrap(), own);
    }

    #[test]
    fn a_wrong_download_is_not_kept() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.read(&mut [0; 4096]).unwrap();
            stream
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nproxy")
                .unwrap();
        });
        let folder = tempfile::tempdir().unwrap();
        let message = find_or_download(&[folder.path().into()], &address).unwrap_err().to_string();
        assert!(message.contains("its 5 bytes have SHA-256") && message.contains("--inception"), "{message}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
