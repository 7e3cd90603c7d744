package terminal

// ring holds the last bytes of an endless output, each with its number. It grows
// with what it holds, up to its limit.
type ring struct {
	limit int
	buf   []byte // byte number n is at n % len(buf)
	kept  int    // bytes that are held, up to end
	end   int64  // number of the next byte
}

// start is the number of the oldest byte that is held.
func (r *ring) start() int64 { return r.end - int64(r.kept) }

// write appends p, and drops what no longer fits.
func (r *ring) write(p []byte) {
	r.grow(r.kept + len(p))
	if over := len(p) - len(r.buf); over > 0 {
		p, r.end = p[over:], r.end+int64(over)
	}
	for len(p) > 0 {
		n := copy(r.buf[r.end%int64(len(r.buf)):], p)
		p, r.end, r.kept = p[n:], r.end+int64(n), r.kept+n
	}
	r.kept = min(r.kept, len(r.buf))
}

// grow makes room for n bytes, or as many as there may be.
func (r *ring) grow(n int) {
	n = min(n, r.limit)
	if n <= len(r.buf) {
		return
	}
	size := max(len(r.buf), 4<<10)
	for size < n {
		size *= 2
	}
	bigger := make([]byte, min(size, r.limit))
	from := r.start()
	for at := from; at < r.end; {
		part := r.part(at)
		for len(part) > 0 {
			n := copy(bigger[at%int64(len(bigger)):], part)
			part, at = part[n:], at+int64(n)
		}
	}
	r.buf = bigger
}

// part returns bytes from number at on, as far as they lie in one piece.
func (r *ring) part(at int64) []byte {
	i := at % int64(len(r.buf))
	return r.buf[i:min(int64(len(r.buf)), i+r.end-at)]
}

// read copies bytes from number at on into p, and returns how many. At must not be
// before start.
func (r *ring) read(at int64, p []byte) (n int) {
	for n < len(p) && at < r.end {
		m := copy(p[n:], r.part(at))
		n, at = n+m, at+int64(m)
	}
	return n
}

// drop forgets all bytes, not their numbers.
func (r *ring) drop() { r.buf, r.kept = nil, 0 }
