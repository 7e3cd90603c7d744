package agent

import (
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"strings"
	"sync/atomic"
)

// guard runs do and outlives its panic, which costs what do served and nothing
// else: a device must not become unreachable by a fault in one of its connections.
// Do frees by defer what it holds. It reports whether do came to its end.
func guard(log *slog.Logger, what string, do func()) (done bool) {
	defer func() {
		if v := recover(); v != nil {
			log.Error("the agent has a fault", "lost", what, "panic", panicText(v), "faults", faults.Add(1), "stack", panicStack())
		}
	}()
	do()
	return true
}

// faults counts the panics that this process has outlived.
var faults atomic.Int64

// errFault stands for what a panic has left without an answer.
var errFault = errors.New("the agent has a fault: its log says more")

// panicText says what a panic was about. Of a value that isn't the runtime's own it
// names the type alone: a text can have anything in it, a secret too, and the stack
// leads to the line that made it.
func panicText(v any) string {
	if err, ok := v.(runtime.Error); ok {
		return err.Error()
	}
	return fmt.Sprintf("%T", v)
}

// panicStack lists the functions that were running, the innermost first, without
// the arguments that debug.Stack shows: the bytes of an array may be a key's.
func panicStack() string {
	var calls [64]uintptr
	frames := runtime.CallersFrames(calls[:runtime.Callers(3, calls[:])])
	var b strings.Builder
	for {
		f, more := frames.Next()
		fmt.Fprintf(&b, "%s %s:%d\n", f.Function, f.File, f.Line)
		if !more {
			return b.String()
		}
	}
}
