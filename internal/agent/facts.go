package agent

import (
	"os"
	"runtime"

	"socketxp"
)

// facts returns what is reported of this machine.
func facts(version string) socketxp.Facts {
	host, _ := os.Hostname() // without a name the machine has none to report
	addrs := addresses()
	return socketxp.Facts{
		OS: runtime.GOOS, Arch: runtime.GOARCH, Kernel: kernel(), Hostname: host, Version: version,
		LocalAddrs: addrs[:min(len(addrs), 16)],
	}
}
