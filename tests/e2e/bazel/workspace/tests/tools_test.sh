#!/bin/bash
# What the two tools pack, they unpack; what is damaged, they refuse.
set -eu

text=tests/text.txt
zst=zstd/zst
brotli=brotli/brotli
scratch=$TEST_TMPDIR

"$zst" -c 3 < "$text" > "$scratch/text.zst"
"$zst" -d < "$scratch/text.zst" | cmp - "$text"
if head -c 100 "$scratch/text.zst" | "$zst" -d > /dev/null 2>&1; then
  echo "zst accepted a cut frame" >&2
  exit 1
fi

"$brotli" -c -q 4 "$text" > "$scratch/text.br"
"$brotli" -d -c "$scratch/text.br" | cmp - "$text"
if echo "not brotli" | "$brotli" -d -c > /dev/null 2>&1; then
  echo "brotli accepted noise" >&2
  exit 1
fi
