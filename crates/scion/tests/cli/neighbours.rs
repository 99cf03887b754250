//! Training images that samples are near to.

use scion::data::samples::write_samples;
use scion::data::{ImageShape, Split, embedded};
use serde_json::Value;

use super::{assert_names, printed, refused, scion};

const SHAPE: ImageShape = ImageShape { channels: 1, height: 28, width: 28 };

#[test]
fn repeated_training_images_are_found() {
    let folder = tempfile::tempdir().unwrap();
    let (samples, sheet) = (folder.path().join("samples.npz"), folder.path().join("nearest.png"));
    // Three images of the training set, the second of which is changed a little, behind ten of the test set.
    let [train, test] = [Split::Train, Split::Test].map(|split| embedded::fashion_mnist(split).unwrap());
    let mut pixels = test.read(&(0..10).collect::<Vec<_>>()).unwrap();
    let mut copied = train.read(&[17, 4000, 321]).unwrap();
    copied[SHAPE.len() + 400] ^= 8;
    pixels.extend(copied);
    write_samples(&samples, &pixels, SHAPE, None).unwrap();
    let neighbours = |more: &[&str]| {
        let mut program = scion("neighbours");
        program.arg(&samples).args(["-k", "2", "--count", "3"]).args(more);
        program
    };
    let text = printed(neighbours(&["--out"]).arg(&sheet));
    assert_names(&text, &["13, beside", "2 samples equal a training image", "held-out images", "suspicious"]);
    let found: Value = serde_json::from_str(&printed(&mut neighbours(&["--json"]))).unwrap();
    let closest = found["closest"].as_array().unwrap();
    let indices: Vec<_> = closest.iter().map(|c| (&c["sample"], &c["neighbours"][0]["index"])).collect();
    assert_eq!(indices, [(&10.into(), &17.into()), (&12.into(), &321.into()), (&11.into(), &4000.into())]);
    assert_eq!(closest[0]["neighbours"][0]["distance"], 0.0);
    assert!(closest[2]["neighbours"][0]["distance"].as_f64().unwrap() > 0.0);
    assert!(found["held_out"]["share_below"].as_f64().unwrap() >= 3.0 / 13.0);

    let drawn = image::open(&sheet).unwrap().into_luma8();
    assert_eq!(drawn.dimensions(), (3 * 58 - 2, 3 * 58 - 2));
    let image = train.read(&[17]).unwrap();
    for (at, &level) in image.iter().enumerate() {
        let (x, y) = (2 * (at % 28) as u32, 2 * (at / 28) as u32);
        assert_eq!((drawn.get_pixel(x, y)[0], drawn.get_pixel(58 + x, y)[0]), (level, level));
    }
    assert_names(&refused(neighbours(&["--out"]).arg(&sheet), 1), &["nearest.png"]);
    assert_names(&refused(scion("neighbours").arg(&samples).args(["--count", "0"]), 2), &["--count"]);
    assert_names(&refused(&mut neighbours(&["--training", "no/such/folder"]), 1), &["no/such/folder"]);
}
