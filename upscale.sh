#!/usr/bin/env bash
# Upscale a video through the gateway and wait for the result: a small client for scripts, with the
# arguments and the output of the old service's script.
#
#   bash upscale.sh URL|FILE [--resolution 720p|1080p|2k|4k|short:720|...|short:2160]
#                            [--allow-damaged] [--wait]
#
# A video that ends early is refused; with --allow-damaged what is there of it is upscaled. If no
# gateway answers, it says so at once; with --wait it waits 15 minutes for one.
# SEEDVR2_GATEWAY_URL is the gateway's address (default http://127.0.0.1:8000), SEEDVR2_GATEWAY_TOKEN
# its token (default: none). Exit codes: 0, the last lines are the result's address and the time;
# 1, the job failed; 2, wrong arguments. Ctrl-C leaves the job running; its id has been printed.
set -euo pipefail

GATEWAY="${SEEDVR2_GATEWAY_URL:-http://127.0.0.1:8000}"
GATEWAY="${GATEWAY%/}"
POLL_SECONDS="${SEEDVR2_POLL_SECONDS:-5}"
AWAY_SECONDS=900 # how long we keep asking a gateway that does not answer

# A proxy is for the outside alone.
export no_proxy="${no_proxy:-${NO_PROXY:-}},127.0.0.1,localhost,::1"

usage() {
  printf 'usage: bash upscale.sh URL|FILE [--resolution 720p|1080p|2k|4k|%s] %s\n' \
    'short:720|short:1080|short:1440|short:2160' '[--allow-damaged] [--wait]' >&2
  exit 2
}

fail() {
  printf 'ERROR: %s\n' "$1" >&2
  exit 1
}

source_=''
resolution='1080p'
damaged=false
patient='' # whether we wait for a gateway that does not answer
while (($# > 0)); do
  case "$1" in
    --resolution | -r)
      (($# > 1)) || usage
      resolution="$2"
      shift 2
      ;;
    --resolution=*)
      resolution="${1#*=}"
      shift
      ;;
    --allow-damaged)
      damaged=true
      shift
      ;;
    --wait)
      patient=yes
      shift
      ;;
    --)
      shift
      (($# == 1)) && [[ -z "$source_" ]] || usage
      source_="$1"
      shift
      ;;
    -*) usage ;;
    *)
      [[ -z "$source_" ]] || usage
      source_="$1"
      shift
      ;;
  esac
done
[[ -n "$source_" ]] || usage
resolution="${resolution,,}"
case "$resolution" in
  720p | 1080p | 2k | 4k | short:720 | short:1080 | short:1440 | short:2160) ;;
  *) usage ;;
esac
for needed in curl python3; do
  command -v "$needed" > /dev/null || fail "$needed is needed and not installed"
done

scratch="$(mktemp -d)"
trap 'rm -rf "$scratch"' EXIT
# curl reads the token from a file, because everybody on the machine can see a command's arguments.
# Names with brackets are names: curl would take them for patterns.
printf 'silent\nshow-error\ngloboff\n' > "$scratch/curlrc"
if [[ -n "${SEEDVR2_GATEWAY_TOKEN:-}" ]]; then
  printf 'header = "Authorization: Bearer %s"\n' "$SEEDVR2_GATEWAY_TOKEN" >> "$scratch/curlrc"
fi

# Every python3 gets -I: without it, it would import from the caller's folder.

# field NAME: prints a field of the answer as one line of plain text; an empty line if it is null.
field() {
  python3 -I -c '
import json, sys
try:
    value = json.load(open(sys.argv[1])).get(sys.argv[2])
except (ValueError, AttributeError):
    value = None
if isinstance(value, (list, tuple)):
    value = "; ".join(map(str, value))
elif isinstance(value, dict):
    value = json.dumps(value)
text = "" if value is None else " ".join(str(value).split())
print("".join(c if c.isprintable() else "?" for c in text))  # nothing may steer the terminal
' "$scratch/answer" "$1"
}

# ask ARGS...: makes a request, again and again while the gateway or Prefect is away; sets $code. A
# gateway that has not answered yet is waited for only with --wait.
ask() {
  local since=$SECONDS
  while true; do
    : > "$scratch/answer"
    code="$(curl --config "$scratch/curlrc" --output "$scratch/answer" --write-out '%{http_code}' \
      --connect-timeout 10 "$@" 2> "$scratch/error" || true)"
    case "$code" in
      2??)
        patient=yes
        return 0
        ;;
      000) [[ -n "$patient" ]] || return 1 ;;
      429 | 502 | 503 | 504) ;;
      *) return 1 ;;
    esac
    ((SECONDS - since < AWAY_SECONDS)) || return 1
    sleep "$POLL_SECONDS"
  done
}

# refusal: prints why the last request failed, in the gateway's words.
refusal() {
  local detail
  detail="$(field detail)"
  if [[ "$code" == 000 && -z "$patient" ]]; then
    printf 'no gateway answers at %s (%s); start one with "seedvr2 serve", name another with' \
      "$GATEWAY" "$(tail -n 1 "$scratch/error")"
    printf ' SEEDVR2_GATEWAY_URL, or wait for it with --wait'
    return
  fi
  [[ -n "$detail" ]] || detail="$(tail -n 1 "$scratch/error")"
  printf '%s (HTTP %s from %s)' "${detail:-no reason given}" "$code" "$GATEWAY"
}

# elapsed: prints the time since the start of the script.
elapsed() {
  printf '%02d:%02d:%02d' $((SECONDS / 3600)) $((SECONDS / 60 % 60)) $((SECONDS % 60))
}

# Every attempt sends the same key, so there is only one job, however often we ask.
key="$(python3 -I -c 'import uuid; print(uuid.uuid4().hex)')"
if [[ -f "$source_" ]]; then
  name="$(python3 -I -c 'import sys, os, urllib.parse as u; print(u.quote(os.fsencode(os.path.basename(sys.argv[1]))))' "$source_")"
  [[ "$source_" == /* ]] || source_="./$source_" # curl reads stdin for a file that is called "-"
  ask --header "Idempotency-Key: $key" --upload-file "$source_" \
    "$GATEWAY/upscale/$name?resolution=$resolution&allow_damaged=$damaged" || fail "$(refusal)"
else
  python3 -I -c 'import json, sys; print(json.dumps({"video_url": sys.argv[1], "resolution": sys.argv[2], "allow_damaged": sys.argv[3] == "true"}))' \
    "$source_" "$resolution" "$damaged" > "$scratch/body"
  ask --header "Idempotency-Key: $key" --header 'Content-Type: application/json' \
    --data-binary "@$scratch/body" "$GATEWAY/upscale" || fail "$(refusal)"
fi

job="$(field job_id)"
printf 'Job submitted: %s\n' "$job"
printf 'Resolution:    %s\n' "$resolution"
printf 'GPU:           %s\n' "$(field gpu_type)"

shown=''
while true; do
  ask "$GATEWAY/status/$job" || fail "$(refusal)"
  status="$(field status)"
  case "$status" in
    completed | failed | cancelled) break ;;
  esac
  line="$status $(field progress)% $(field phase)"
  if [[ -t 1 ]]; then
    printf '\r\033[K[%s] %s' "$(elapsed)" "$line"
  elif [[ "$line" != "$shown" ]]; then
    printf '[%s] %s\n' "$(elapsed)" "$line"
  fi
  shown="$line"
  sleep "$POLL_SECONDS"
done
[[ ! -t 1 ]] || printf '\r\033[K'
printf '[%s] %s\n' "$(elapsed)" "$status"

if [[ "$status" != completed ]]; then
  fail "job $job has $status: $(field error)"
fi
notes="$(field notes)"
[[ -z "$notes" ]] || printf 'Notes:         %s\n' "$notes"
url="$(field download_url)"
[[ -n "$url" ]] || url="$(field output_path)"
printf 'URL:           %s\n' "$url"
printf 'Total time:    %s\n' "$(elapsed)"
