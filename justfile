# The usual commands. `just --list` names them.

python := env("PYTHON", ".venv/bin/python")
dit_repo := env("DIT_REPO", "../DiT")
grafting_repo := env("GRAFTING_REPO", "../grafting")
geneval_repo := env("GENEVAL_REPO", "../geneval")
pixart_repo := env("PIXART_REPO", "../PixArt-sigma")

# Everything a pull request must pass.
check:
    .ci/run

# The tests.
test *args:
    cargo test --workspace {{args}}

# Formats the code.
fmt:
    cargo fmt --all

# The main job on the embedded model and data, to a report.
quickstart *args:
    cargo run --release -- quickstart {{args}}

# Makes the golden data anew (needs PyTorch and checkouts of facebookresearch/DiT, keshik6/grafting, djghosh13/geneval and PixArt-alpha/PixArt-sigma; see CONTRIBUTING.md).
fixtures:
    {{python}} scripts/fixtures/analysis.py
    {{python}} scripts/fixtures/data.py --dit-repo {{dit_repo}}
    {{python}} scripts/fixtures/diffusion.py --dit-repo {{dit_repo}}
    {{python}} scripts/fixtures/dit.py --dit-repo {{dit_repo}}
    {{python}} scripts/fixtures/dpm_solver.py
    {{python}} scripts/fixtures/events.py
    {{python}} scripts/fixtures/geneval.py --geneval-repo {{geneval_repo}}
    {{python}} scripts/fixtures/grafted.py --dit-repo {{dit_repo}} --grafting-repo {{grafting_repo}}
    {{python}} scripts/fixtures/inception.py
    {{python}} scripts/fixtures/kv_compression.py --pixart-repo {{pixart_repo}}
    {{python}} scripts/fixtures/latent.py
    {{python}} scripts/fixtures/metrics.py
    {{python}} scripts/fixtures/operators.py
    {{python}} scripts/fixtures/pairs.py --dit-repo {{dit_repo}}
    {{python}} scripts/fixtures/pixart.py
    {{python}} scripts/fixtures/text.py
    {{python}} scripts/fixtures/pipeline.py        # with the tokenizer of text.py

# Checks the golden data against their manifest.
check-fixtures:
    #!/usr/bin/env bash
    set -euo pipefail
    cd fixtures
    tail -q -n +3 MANIFEST.d/*.txt | sha256sum --check --quiet
    diff <(tail -q -n +3 MANIFEST.d/*.txt | cut -c67- | LC_ALL=C sort) <(find . -mindepth 2 -type f -not -path './MANIFEST.d/*' | cut -c3- | LC_ALL=C sort)

# Compares speed with PyTorch; the machine should do nothing else.
bench *args:
    cargo build --release
    {{python}} scripts/bench/compare.py {{args}}

# Trains the embedded teacher anew and replaces assets/teacher.safetensors (f16).
teacher:
    cargo run --release -- pretrain recipes/teacher.toml --out runs/teacher
    rm -f runs/teacher/teacher-f16.safetensors
    cargo run --release -- convert runs/teacher/model.safetensors runs/teacher/teacher-f16.safetensors --layout scion --dtype f16
    cp runs/teacher/teacher-f16.safetensors assets/teacher.safetensors

# Trains the embedded text-to-image model anew and replaces assets/emoji-teacher.safetensors (f16).
emoji-teacher:
    cargo run --release -- pretrain recipes/emoji-teacher.toml --out runs/emoji-teacher
    rm -f runs/emoji-teacher/teacher-f16.safetensors
    cargo run --release -- convert runs/emoji-teacher/model.safetensors runs/emoji-teacher/teacher-f16.safetensors --layout scion --dtype f16
    cp runs/emoji-teacher/teacher-f16.safetensors assets/emoji-teacher.safetensors

# The kernels' tests under AddressSanitizer, which stable compilers carry but do not offer.
asan:
    RUSTC_BOOTSTRAP=1 RUSTFLAGS="-Zsanitizer=address" cargo test --package scion-kernels --tests --target x86_64-unknown-linux-gnu --target-dir target/asan
