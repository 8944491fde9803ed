#!/usr/bin/env bash
# Builds an image with Buildx, its layers cached by a cachectld on this machine: `examples/buildx/build.sh CONTEXT NAME`.
#
# Needs docker with Buildx, and a cachectld at 127.0.0.1:5000 (`cachectld &` is enough to try it).
set -euo pipefail

context=${1:?the folder with the Dockerfile}
name=${2:?the image, such as team/app}
cache=${CACHE:-127.0.0.1:5000}/$name
branch=$(git -C "$context" rev-parse --abbrev-ref HEAD 2>/dev/null || echo main)
tag=$(tr -c 'A-Za-z0-9_.\n-' - <<<"$branch" | cut -c1-120)

# Once for each machine. The usual builder is a container of its own, in which 127.0.0.1 is not this machine: it gets the machine's
# network. `buildx-setup` without --run prints what it would do.
docker buildx inspect cachectl >/dev/null 2>&1 || cachectl buildx-setup --builder cachectl --run

# mode=max caches every stage, not only the last one's layers. ignore-error lets the build go on when its cache cannot be written;
# without it a cache that is away fails the build at its very end. Both branches' tags are read; which comes first does not matter.
exec docker buildx build --builder cachectl \
  --cache-to "type=registry,ref=$cache:$tag,mode=max,compression=zstd,ignore-error=true" \
  --cache-from "type=registry,ref=$cache:$tag" \
  --cache-from "type=registry,ref=$cache:main" \
  --tag "$name" --load "$context"
