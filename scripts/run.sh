#!/usr/bin/env bash
# A gateway on localhost with this machine as a demo device, all of it below .run/
# of the checkout. A second run goes on with the same data; remove .run to start
# again. SOCKETXP_RUN_LISTEN is where it listens (127.0.0.1:8443).
set -euo pipefail
cd "$(dirname "$0")/.."
umask 077

listen=${SOCKETXP_RUN_LISTEN:-127.0.0.1:8443}
url=https://localhost:${listen##*:}
data=.run/gateway
email=owner@localhost

fail() {
	echo "make run: $1" >&2
	[[ -z ${2:-} ]] || echo "hint: $2" >&2
	exit 1
}
command -v curl >/dev/null || fail "curl is not installed" "apt-get install curl"

mkdir -p .run
pids=()
# shellcheck disable=SC2317 # the trap below calls it
stop() {
	trap - EXIT INT TERM
	# The device before the gateway, so that it can say goodbye.
	for ((i = ${#pids[@]} - 1; i >= 0; i--)); do
		kill -INT "${pids[i]}" 2>/dev/null || true
		wait "${pids[i]}" 2>/dev/null || true
	done
	rm -f .run/cookies
}
trap stop EXIT
trap 'echo; echo "Stopped. make run goes on with the same data."; exit 0' INT TERM

# A background job of a script ignores Ctrl-C unless it has a group of its own.
set -m

if [[ ! -s .run/owner-password ]]; then
	head -c 18 /dev/urandom | base64 | tr '+/' '-_' >.run/owner-password.new
	bin/socketxp-gateway admin create-user --data-dir $data --email $email --account demo --password-file .run/owner-password.new >/dev/null
	mv .run/owner-password.new .run/owner-password
fi

bin/socketxp-gateway serve --data-dir $data --listen "$listen" --public-url "$url" --metrics-listen "" >.run/gateway.log 2>&1 &
pids+=($!)

ask() { curl -sS --fail-with-body --max-time 20 --cacert $data/gateway.crt -b .run/cookies -c .run/cookies -H 'Content-Type: application/json' "$@"; }
for ((i = 0; ; i++)); do
	kill -0 "${pids[0]}" 2>/dev/null || fail "the gateway did not start: $(tail -n 3 .run/gateway.log)" "is $listen in use? SOCKETXP_RUN_LISTEN=127.0.0.1:9443 make run"
	ask -o /dev/null "$url/readyz" 2>/dev/null && break
	((i < 300)) || fail "the gateway is not ready after 30 s" "see .run/gateway.log"
	sleep 0.1
done

ask -o /dev/null -d @- "$url/api/v1/signin" <<<"{\"email\": \"$email\", \"password\": \"$(<.run/owner-password)\"}"
# token KIND NAME prints the text of a new token.
token() { ask -d "{\"kind\": \"$1\", \"name\": \"$2\"}" "$url/api/v1/tokens" | sed -n 's/.*"token": *"\([^"]*\)".*/\1/p'; }

if [[ ! -s .run/device/device.key ]]; then
	token registration "demo device" | bin/socketxp --work-dir .run/device login - --iot-device-name demo >/dev/null
fi
token access "demo laptop" >.run/access-token

: >.run/device.log # or what it said the last time is taken for what it says now
bin/socketxp --work-dir .run/device connect tcp://localhost:22 --enable-ssh >.run/device.log 2>&1 &
pids+=($!)
for ((i = 0; ; i++)); do
	kill -0 "${pids[1]}" 2>/dev/null || fail "the demo device did not start: $(tail -n 3 .run/device.log)" "see .run/device.log"
	grep -q '^Connected to' .run/device.log && break
	((i < 300)) || fail "the demo device is not connected after 30 s" "see .run/device.log"
	sleep 0.1
done

cat <<E2

The gateway runs at $url, and this machine is its device "demo".

Open the portal (your browser warns once: the certificate is the gateway's own)
  $url
  and sign in as $email with the password that
  \$ cat .run/owner-password
  prints. The icon beside the device opens a terminal on it; the API is at $url/api/docs.

Or with your own programs. Type in another terminal, in this folder: a local port that leads to the device's built-in SSH server,
  \$ SOCKETXP_AUTHTOKEN=\$(cat .run/access-token) bin/socketxp --work-dir .run/laptop connect tcp://localhost:3000 --iot-slave --peer-device-name demo --peer-device-port 22
and in a third one, ssh through it (the host key is known through the gateway)
  \$ ssh -p 3000 -o UserKnownHostsFile=.run/laptop/ssh_known_hosts localhost

Logs are in .run/gateway.log and .run/device.log. Ctrl-C ends all of it.
E2

# Ends when either program does: then something is wrong.
set +e
wait -n "${pids[@]}"
fail "a program ended: $(tail -n 3 .run/gateway.log .run/device.log)" "see .run/*.log"
