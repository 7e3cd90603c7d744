package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/rogpeppe/go-internal/testscript"
)

// mounted are folders that a script has mounted, by their paths.
type mounted []string

type mountedKey struct{}

// cmdDisk is `disk DIR KIB`: a file system of so little room at DIR. `disk fill DIR`
// takes all that is left of it, `disk free DIR` gives it back.
func cmdDisk(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: disk DIR KIB, disk fill DIR, disk free DIR")
	}
	switch args[0] {
	case "fill":
		check(ts, fillDisk(filepath.Join(ts.MkAbs(args[1]), "ballast")))
	case "free":
		check(ts, os.Remove(filepath.Join(ts.MkAbs(args[1]), "ballast")))
	default:
		dir := ts.MkAbs(args[0])
		check(ts, os.MkdirAll(dir, 0o700))
		check(ts, syscall.Mount("tmpfs", dir, "tmpfs", 0, "mode=700,size="+args[1]+"k"))
		list, _ := ts.Value(mountedKey{}).(*mounted)
		*list = append(*list, dir)
	}
}

func fillDisk(path string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	for _, block := range []int{64 << 10, 1 << 10} {
		for err == nil {
			_, err = f.Write(make([]byte, block))
		}
		if !errors.Is(err, syscall.ENOSPC) {
			return errors.Join(err, f.Close())
		}
		err = nil
	}
	return f.Close()
}

func (m *mounted) unmount() {
	for _, dir := range *m {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			fmt.Fprintln(os.Stderr, "unmount", strings.TrimSpace(dir)+":", err)
		}
	}
}
