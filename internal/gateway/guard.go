package gateway

import (
	"fmt"
	"runtime"
	"strings"
)

// guard runs do and outlives its panic, which costs what do served and nothing
// else: do frees by defer what it holds, and takes no lock that only its end would
// give back. It reports whether do came to its end.
//
// The gateway's own loops run without it: a gateway whose judge is gone must not go
// on, and is started anew.
func (g *Gateway) guard(what string, do func()) (done bool) {
	defer func() {
		if v := recover(); v != nil {
			g.panicked(what, v)
		}
	}()
	do()
	return true
}

// spawn guards do in a goroutine of its own.
func (g *Gateway) spawn(what string, do func()) {
	g.all.Go(func() { g.guard(what, do) })
}

// panicked counts and logs what was lost to a panic. It must be called by the
// deferred function that has recovered v.
func (g *Gateway) panicked(what string, v any) {
	g.stats.panicked(what)
	g.log.Error("the gateway has a fault", "lost", what, "panic", panicText(v), "stack", panicStack())
}

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
