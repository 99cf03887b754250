//! The whole of Fashion-MNIST: four IDX files in a folder, found on the machine or downloaded.

use std::fs;
use std::path::{Path, PathBuf};

use super::idx::{self, IdxArray};
use super::image_set::{ImageSet, ImageShape, Origins};
use crate::atomic;
use crate::download;
use crate::error::{Error, Result};

/// Class names in label order.
pub const CLASS_NAMES: [&str; 10] = [
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
];

/// Where Debian's package `dataset-fashion-mnist` puts the files.
pub const DEBIAN_DIR: &str = "/usr/share/datasets/fashion-mnist";

/// The publisher's copies, tried in turn.
const MIRRORS: [&str; 2] = [
    "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion",
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
];

/// File name and SHA-256 of the *uncompressed* contents: packagers recompress, so archives differ by mirror.
const FILES: [(&str, &str); 4] = [
    ("train-images-idx3-ubyte", "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888"),
    ("train-labels-idx1-ubyte", "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9"),
    ("t10k-images-idx3-ubyte", "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b"),
    ("t10k-labels-idx1-ubyte", "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34"),
];

/// Largest download accepted; the largest file is 26 MB.
const MAX_DOWNLOAD: u64 = 64 << 20;

/// Which part of the data set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    /// 60,000 images.
    Train,
    /// 10,000 images.
    Test,
}

/// A folder that holds the four files, plain or `.gz`.
#[derive(Clone, Debug)]
pub struct FashionMnist {
    dir: PathBuf,
}

impl FashionMnist {
    /// Uses the files in `dir`.
    ///
    /// # Errors
    /// `Invalid` if the folder or one of the four files is missing, naming all that are.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self> {
        let dir = dir.as_ref().to_path_buf();
        if !dir.is_dir() {
            return Err(Error::invalid(&dir, "no such folder; it should hold the four Fashion-MNIST files"));
        }
        let missing: Vec<_> =
            FILES.iter().filter(|(name, _)| locate(&dir, name).is_none()).map(|(name, _)| *name).collect();
        if missing.is_empty() {
            return Ok(Self { dir });
        }
        let names = missing.join(", ");
        Err(Error::invalid(&dir, format!("lacks these Fashion-MNIST files (plain or .gz): {names}")))
    }

    /// Finds the data set: [`DEBIAN_DIR`], then `cache`, else downloads it (31 MB) into `cache`.
    ///
    /// Each downloaded file is checked by SHA-256 and appears under its name only when whole.
    ///
    /// # Errors
    /// `Usage` if no mirror can be reached, saying how to get the files by hand; `Invalid` if what
    /// arrives is not the file; `Io` if the cache folder cannot be written.
    pub fn find_or_download(cache: &Path) -> Result<Self> {
        if let Ok(found) = Self::open(DEBIAN_DIR).or_else(|_| Self::open(cache)) {
            return Ok(found);
        }
        fs::create_dir_all(cache).map_err(|e| Error::io("create", cache, e))?;
        for (name, sha256) in FILES {
            if locate(cache, name).is_none() {
                download(&MIRRORS, name, sha256, cache)?;
            }
        }
        Self::open(cache)
    }

    /// The folder in use.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Reads one part: grey images [N, 1, 28, 28] and labels.
    ///
    /// # Errors
    /// `Io` or `Invalid`, naming the file: unreadable, not IDX, cut off, or images and labels that
    /// do not match.
    pub fn read(&self, split: Split) -> Result<ImageSet> {
        let [(images, _), (labels, _)] = match split {
            Split::Train => [FILES[0], FILES[1]],
            Split::Test => [FILES[2], FILES[3]],
        };
        let path = |name| {
            locate(&self.dir, name).ok_or_else(|| Error::invalid(self.dir.join(name), "file has disappeared"))
        };
        let (images, labels) = (path(images)?, path(labels)?);
        Self::image_set(idx::read(&images, 3)?, idx::read(&labels, 1)?, &images)
    }

    /// Joins images [N, H, W] and labels [N]; `source` names the image file.
    pub(super) fn image_set(images: IdxArray, labels: IdxArray, source: &Path) -> Result<ImageSet> {
        let [n, height, width] = images.dims[..] else {
            return Err(Error::invalid(source, format!("dimensions {:?}, expected three", images.dims)));
        };
        if (height, width) != (28, 28) || labels.data.len() != n {
            let count = labels.data.len();
            let detail = format!(
                "{n} images of {height}×{width} with {count} labels, expected 28×28 and equal counts"
            );
            return Err(Error::invalid(source, detail));
        }
        if let Some(label) = labels.data.iter().find(|&&label| usize::from(label) >= CLASS_NAMES.len()) {
            return Err(Error::invalid(
                source,
                format!("its label file holds class {label}, expected 0 to 9"),
            ));
        }
        ImageSet::from_memory(
            ImageShape { channels: 1, height, width },
            images.data,
            labels.data.into_iter().map(usize::from).collect(),
            CLASS_NAMES.map(String::from).to_vec(),
            Origins::Rows { source: source.display().to_string(), rows: (0..n).collect() },
        )
    }
}

/// The folder for downloads, `fashion-mnist` in Scion's cache. `None` if no home folder is known.
pub fn default_cache() -> Option<PathBuf> {
    download::cache_folder("fashion-mnist")
}

/// `dir/name` or `dir/name.gz`, whichever exists.
fn locate(dir: &Path, name: &str) -> Option<PathBuf> {
    [dir.join(name), dir.join(format!("{name}.gz"))].into_iter().find(|path| path.is_file())
}

/// Fetches `name.gz` from the first mirror that answers, checks it, and moves it into `cache`.
fn download(mirrors: &[&str], name: &str, sha256: &str, cache: &Path) -> Result<()> {
    let target = cache.join(format!("{name}.gz"));
    let mut failures = Vec::new();
    for mirror in mirrors {
        let url = format!("{mirror}/{name}.gz");
        tracing::info!(%url, "downloading Fashion-MNIST");
        let outcome = download::fetch(&url, MAX_DOWNLOAD).and_then(|bytes| {
            verify(&bytes, sha256, &target).map_err(|e| e.to_string())?;
            Ok(bytes)
        });
        match outcome {
            Ok(bytes) => return atomic::write(&target, &bytes),
            Err(reason) => failures.push(format!("{url}: {reason}")),
        }
    }
    Err(Error::Usage(format!(
        "cannot download Fashion-MNIST ({}). Get it by hand: install Debian's package dataset-fashion-mnist, or \
         put train-images-idx3-ubyte.gz, train-labels-idx1-ubyte.gz, t10k-images-idx3-ubyte.gz and \
         t10k-labels-idx1-ubyte.gz from https://github.com/zalandoresearch/fashion-mnist into {} or any folder \
         that [data] path names.",
        failures.join("; "),
        cache.display()
    )))
}

fn verify(archive: &[u8], sha256: &str, path: &Path) -> Result<()> {
    let contents = idx::decompress(archive.to_vec(), path)?;
    let found = download::sha256(&contents);
    if found == sha256 {
        return Ok(());
    }
    let detail = format!("its {} uncompressed bytes have SHA-256 {found}, expected {sha256}", contents.len());
    Err(Error::invalid(path, detail))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    fn labels_file() -> Vec<u8> {
        fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/../../assets/fashion-mnist/test-labels.idx.gz"))
            .unwrap()
    }

    /// Answers one request with `body`, and returns the address.
    fn serve_once(body: Vec<u8>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.read(&mut [0; 4096]).unwrap();
            write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len())
                .unwrap();
            stream.write_all(&body).unwrap();
        });
        address
    }

    #[test]
    fn a_verified_download_replaces_a_bad_mirror() {
        let cache = tempfile::tempdir().unwrap();
        let (bad, good) = (serve_once(b"not the file".to_vec()), serve_once(labels_file()));
        let (name, sha256) = FILES[3];
        download(&[&bad, &good], name, sha256, cache.path()).unwrap();
        assert_eq!(fs::read(cache.path().join(format!("{name}.gz"))).unwrap(), labels_file());
        assert_eq!(fs::read_dir(cache.path()).unwrap().count(), 1, "no temporary file is left");
    }

    #[test]
    fn a_failed_download_says_how_to_get_the_files() {
        let cache = tempfile::tempdir().unwrap();
        let wrong = serve_once(b"not the file".to_vec());
        let error =
            download(&[&wrong, "http://127.0.0.1:1"], FILES[3].0, FILES[3].1, cache.path()).unwrap_err();
        let message = error.to_string();
        assert!(message.contains("expected 0402a96d"), "{message}");
        assert!(message.contains("dataset-fashion-mnist") && message.contains("[data] path"), "{message}");
        assert_eq!(fs::read_dir(cache.path()).unwrap().count(), 0);
    }

    #[test]
    fn missing_files_are_all_named() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("t10k-labels-idx1-ubyte.gz"), labels_file()).unwrap();
        let message = FashionMnist::open(dir.path()).unwrap_err().to_string();
        assert!(
            message.contains("train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images"),
            "{message}"
        );
        assert!(!message.contains("t10k-labels"), "{message}");
        assert!(
            FashionMnist::open(dir.path().join("absent")).unwrap_err().to_string().contains("no such folder")
        );
    }

    #[test]
    fn mismatched_counts_and_classes_are_refused() {
        let images = |n: usize| IdxArray { dims: vec![n, 28, 28], data: vec![0; n * 784] };
        let labels = |data: Vec<u8>| IdxArray { dims: vec![data.len()], data };
        let message = |i, l| FashionMnist::image_set(i, l, Path::new("f")).unwrap_err().to_string();
        assert!(message(images(2), labels(vec![1])).contains("2 images of 28×28 with 1 labels"));
        assert!(message(images(1), labels(vec![10])).contains("class 10"));
    }
}
