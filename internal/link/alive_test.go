package link

import (
	"runtime"
	"testing"
)

func TestDead(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("known on Linux only")
	}
	near, far := tcpPair(t)
	KeepAlive(near)
	if err := Dead(near); err != nil {
		t.Fatal(err)
	}
	_ = far.CloseWrite()
	if err := Dead(near); err != nil {
		t.Fatal("half-closed is not dead:", err)
	}
	_ = far.SetLinger(0)
	_ = far.Close()
	await(t, "the death of a connection that was reset", func() bool { return Dead(near) != nil })
	_ = near.Close()
	if Dead(near) == nil {
		t.Fatal("a closed connection is alive")
	}
}

// TestIdleMemory: what an idle link costs each end, sockets not counted.
func TestIdleMemory(t *testing.T) {
	const links = 200
	r, k := newRelayed(t, nil), newKeys()
	heap := func() uint64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	r.links(k)
	before := heap()
	for range links {
		r.links(k)
	}
	each := (heap() - before) / (2 * links)
	t.Logf("%d bytes of heap for an end of an idle link", each)
	if each > 16<<10 {
		t.Errorf("an end of an idle link holds %d bytes of heap", each)
	}
}
