# How a check is counted and shown. Sourced by run.

passed=0
failed=0
started=$SECONDS

step() { printf '%s\n' "-- $* ($((SECONDS - started)) s)"; }

# check SENTENCE COMMAND…: the sentence holds if the command succeeds. Its output is shown only if it fails.
check() {
    local sentence=$1 output
    shift
    if output=$("$@" 2>&1); then
        passed=$((passed + 1))
        echo "ok    $sentence"
    else
        failed=$((failed + 1))
        echo "FAIL  $sentence"
        echo "      command: $*"
        printf '%s\n' "$output" | sed 's/^/      | /'
    fi
}

# equal A B: for checks of values, showing both where they differ.
equal() { [ "$1" = "$2" ] || { echo "expected: $2"; echo "found:    $1"; return 1; }; }
matches() { [[ $1 =~ $2 ]] || { echo "expected: $2"; echo "found:    $1"; return 1; }; }

# matches_now PATTERN COMMAND…: for what is tried again and again.
matches_now() { local pattern=$1; shift; matches "$("$@" 2>&1)" "$pattern"; }

# eventually SECONDS COMMAND…: succeeds as soon as the command does.
eventually() {
    local limit=$((SECONDS + $1))
    shift
    until "$@"; do
        [ $SECONDS -lt $limit ] || return 1
        read -r -t 0.2 <> <(:) || true
    done
}

summary() {
    echo "system: $passed passed, $failed failed"
    [ "$failed" = 0 ]
}
