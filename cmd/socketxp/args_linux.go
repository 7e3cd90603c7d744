package main

import (
	"bytes"
	"os"
	"strconv"
	"unsafe"
)

// hideArg overwrites an argument where the kernel keeps it: on Linux the strings of
// os.Args are that memory, which /proc shows. The caller has copied all it needs.
func hideArg(s string) {
	b := unsafe.Slice(unsafe.StringData(s), len(s)) //nolint:gosec // G103: there is no other way to that memory
	for i := range b {
		b[i] = 'x'
	}
}

// hideEnv overwrites a variable where the kernel keeps what the program was started
// with; Go works on a copy. On a kernel that forbids it, the value stays visible to
// this user and root.
func hideEnv(name string) {
	const envStart = 50 // field of /proc/PID/stat, proc_pid_stat(5)
	stat, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		return
	}
	// The second field, the program's name, may have spaces and parentheses in it.
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	if len(fields) <= envStart-3 {
		return
	}
	start, err := strconv.ParseInt(string(fields[envStart-3]), 10, 64)
	if err != nil {
		return
	}
	environ, err := os.ReadFile("/proc/self/environ")
	if err != nil {
		return
	}
	mem, err := os.OpenFile("/proc/self/mem", os.O_WRONLY, 0)
	if err != nil {
		return
	}
	defer func() { _ = mem.Close() }()
	at := 0
	for variable := range bytes.SplitSeq(environ, []byte{0}) {
		if key, value, ok := bytes.Cut(variable, []byte{'='}); ok && string(key) == name {
			_, _ = mem.WriteAt(bytes.Repeat([]byte{'x'}, len(value)), start+int64(at+len(key)+1))
		}
		at += len(variable) + 1
	}
}
