#!/bin/sh
# An agent in shell. It needs the nats command line tool (https://github.com/nats-io/natscli) and nothing else.
#
#   NATS_URL=nats://127.0.0.1:4222 examples/shell-agent.sh
#
# It serves tasks of one capability, one at a time, until SIGINT or SIGTERM; then it finishes what it has and says goodbye. Replace work().
#
# Environment: AGENT_ID (shell-agent; letters, digits, _ and - only), AGENT_CAPABILITY (count-bytes), NATS_URL or whatever else nats reads.
#
# Limits of this form: "nats reply" hands the request over in an environment variable, so on Linux a task may have 128 KiB at most. The agent
# sends no heartbeats. The token of the task is not echoed; then the number of the attempt decides, see docs/wire.md.
#
# How it was checked: nats was not at hand where this was written. "nats reply" (queue group, --command, NATS_REQUEST_BODY, one request after
# the other, answers with the command's output) and "nats req" (--raw, templates in bodies, exit code 0 even without an answer) were read up in the
# source of natscli, and the script was run against "opscore dev" with a stand-in for nats that does the same. With the real tool it is untested.
set -eu

AGENT_ID=${AGENT_ID:-shell-agent}
AGENT_CAPABILITY=${AGENT_CAPABILITY:-count-bytes}

# work reads a task as JSON from standard input and writes its output, JSON too. A status other than 0 fails the attempt; the last line of
# standard error is then the message. It is killed with SIGTERM when the task is cancelled.
work() {
	bytes=$(wc -c | tr -d ' ')
	printf '{"bytes":%s}' "$bytes"
}

# say publishes a message of this agent until the stream has acknowledged it. nats answers 0 whatever happened, so the answer is looked at.
# It reads {{ as the start of a template; within JSON that can only stand in a string, where it may be written otherwise.
say() {
	body=$(printf '%s' "$2" | sed 's/{{/{\\u007b/g')
	while :; do
		ack=$(nats req --raw "opscore.v1.agent.$1.$AGENT_ID" "$body" </dev/null 2>/dev/null) || ack=
		case $ack in
		*'"error"'*) echo "shell-agent: $1 refused: $ack" >&2 ;;
		*'"seq":'*) return ;;
		esac
		sleep 1
	done
}

# member prints the first member of that name of the task. runId, taskId and attempt stand before input, where users' members begin, and
# quotes within strings are escaped, so the first one is the right one. Strings stay as they are in JSON.
member() {
	printf '%s' "$NATS_REQUEST_BODY" | grep -oE "\"$1\":(\"([^\"\\\\]|\\\\.)*\"|[0-9]+)" | head -n 1 | cut -d: -f2-
}

# attempt prints what names the attempt in messages, and a folder remembers it.
attempt() {
	run=$(member runId) task=$(member taskId) number=$(member attempt)
	ref="\"runId\":$run,\"taskId\":$task,\"attempt\":$number"
	dir=$AGENT_STATE/$(printf '%s' "$ref" | cksum | tr ' ' -)
}

# on_task answers a task request at once and leaves the work to another process. Requests come one after the other.
on_task() {
	attempt
	if [ -e "$dir/result" ]; then # done already, and asked again: the answer or the result was lost
		"$0" --repeat "$dir" </dev/null >>"$AGENT_STATE/log" 2>&1 &
	elif [ -e "$dir/cancelled" ]; then
		echo '{"status":"rejected","reason":"the attempt was cancelled"}'
		return
	elif [ -d "$dir" ]; then
		: # at work, and asked again
	elif [ -e "$AGENT_STATE/draining" ]; then
		echo '{"status":"rejected","reason":"draining","retryAfterMs":60000}'
		return
	elif [ -n "$(ls -d "$AGENT_STATE"/*/running 2>/dev/null)" ]; then
		echo '{"status":"rejected","reason":"no free slot","retryAfterMs":500}'
		return
	else
		mkdir "$dir"
		: >"$dir/running"
		# Nothing of this process may stay open in the other one: nats waits for the end of its output.
		"$0" --work </dev/null >>"$AGENT_STATE/log" 2>&1 &
	fi
	echo '{"status":"accepted"}'
}

# do_work does the task and reports how it ended.
do_work() {
	attempt
	printf '%s' "$NATS_REQUEST_BODY" >"$dir/task"
	work <"$dir/task" >"$dir/output" 2>"$dir/errors" &
	echo $! >"$dir/pid"
	status=0
	wait $! || status=$?
	if [ -e "$dir/cancelled" ]; then
		rm "$dir/running" # nobody waits for the result any more
		return
	fi
	if [ "$status" -eq 0 ]; then
		result="{$ref,\"status\":\"completed\",\"output\":$(cat "$dir/output")}"
	else
		message=$(tail -n 1 "$dir/errors" | tr -d '\000-\037' | cut -c 1-1000 | sed 's/\\/\\\\/g; s/"/\\"/g')
		result="{$ref,\"status\":\"failed\",\"error\":{\"code\":\"exit_$status\",\"message\":\"$message\"}}"
	fi
	printf '%s' "$result" >"$dir/result"
	say result "$result"
	rm "$dir/running"
	echo "shell-agent: $ref: status $status" >&2
}

# on_cancel stops an attempt.
on_cancel() {
	attempt
	if [ -e "$dir/result" ]; then
		echo '{"status":"finished"}'
	elif [ -s "$dir/pid" ]; then
		: >"$dir/cancelled"
		kill "$(cat "$dir/pid")" 2>/dev/null || :
		echo '{"status":"cancelled"}'
	else
		echo '{"status":"unknown"}'
	fi
}

case ${1:-} in
--task) on_task; exit ;;
--cancel) on_cancel; exit ;;
--work) do_work; exit ;;
--repeat) say result "$(cat "$2/result")"; exit ;;
esac

if ! command -v nats >/dev/null 2>&1; then
	echo "shell-agent: the nats command line tool is not installed; see https://github.com/nats-io/natscli" >&2
	exit 1
fi
AGENT_STATE=$(mktemp -d)
export AGENT_ID AGENT_CAPABILITY AGENT_STATE
: >"$AGENT_STATE/log"
tail -f "$AGENT_STATE/log" >&2 &
helpers=$!

stop() {
	trap '' INT TERM
	: >"$AGENT_STATE/draining"
	say state '{"state":"draining"}'
	while [ -n "$(ls -d "$AGENT_STATE"/*/running 2>/dev/null)" ]; do sleep 1; done
	say state '{"state":"offline"}'
	# shellcheck disable=SC2086 # a list of numbers
	kill $helpers 2>/dev/null || :
	rm -rf "$AGENT_STATE"
	exit 0
}
trap stop INT TERM

say register "{\"agentName\":\"Shell agent\",\"version\":\"1.0\",\"capabilities\":[\"$AGENT_CAPABILITY\"],\"slots\":1}"
nats reply "opscore.v1.task.$AGENT_ID" --queue "$AGENT_ID" --command "'$0' --task" </dev/null >/dev/null 2>&1 &
helpers="$helpers $!"
nats reply "opscore.v1.cancel.$AGENT_ID" --queue "$AGENT_ID" --command "'$0' --cancel" </dev/null >/dev/null 2>&1 &
helpers="$helpers $!"
sleep 1 # both subscribe; a task that comes too early finds nobody and goes elsewhere
say state '{"state":"idle"}'
echo "shell-agent: $AGENT_ID serves $AGENT_CAPABILITY" >&2
wait
