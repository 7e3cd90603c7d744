package gateway

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"strings"
)

// The PROXY protocol, versions 1 and 2: how a load balancer that passes TCP on
// tells from where a connection came, in a header before all else. The text is
// doc/proxy-protocol.txt of HAProxy.

const (
	// proxyV1Start and proxyV2Start are the first bytes of a header. Neither starts a
	// TLS record or a link.
	proxyV1Start = 'P'
	proxyV2Start = '\r'
	// proxyV1Max is the longest header of version 1, its line end included.
	proxyV1Max = 107
	// proxyV2Max bounds what follows the first 16 bytes of version 2: addresses need
	// 216, and balancers add a few hundred bytes about TLS and their own names.
	proxyV2Max = 2048
)

var proxyV2Signature = []byte("\r\n\r\n\x00\r\nQUIT\n")

var errProxyHeader = errors.New("the PROXY protocol's header is not valid")

// readProxyHeader reads a header whose first byte was read already, and not a byte
// more. It returns the client's address, or false if the header names none: a
// balancer's own health check, say.
func readProxyHeader(first byte, r io.Reader) (client netip.AddrPort, ok bool, err error) {
	if first == proxyV1Start {
		client, ok, err = readProxyV1(r)
	} else {
		client, ok, err = readProxyV2(r)
	}
	if err == nil && ok {
		client = netip.AddrPortFrom(client.Addr().Unmap(), client.Port())
	}
	return client, ok, err
}

// readProxyV1 reads a line such as "PROXY TCP4 192.0.2.1 192.0.2.2 1234 443".
func readProxyV1(r io.Reader) (netip.AddrPort, bool, error) {
	// Byte by byte: what follows is the client's, and goes from socket to socket.
	line := make([]byte, 1, proxyV1Max)
	line[0] = proxyV1Start
	for line[len(line)-1] != '\n' {
		if len(line) == proxyV1Max {
			return netip.AddrPort{}, false, fmt.Errorf("%w: the line is too long", errProxyHeader)
		}
		if _, err := io.ReadFull(r, line[len(line):len(line)+1]); err != nil {
			return netip.AddrPort{}, false, err
		}
		line = line[:len(line)+1]
	}
	text, ended := strings.CutSuffix(string(line), "\r\n")
	fields := strings.Split(text, " ")
	if !ended || fields[0] != "PROXY" || len(fields) < 2 {
		return netip.AddrPort{}, false, errProxyHeader
	}
	if fields[1] == "UNKNOWN" { // whatever follows is to be ignored
		return netip.AddrPort{}, false, nil
	}
	if fields[1] != "TCP4" && fields[1] != "TCP6" || len(fields) != 6 {
		return netip.AddrPort{}, false, errProxyHeader
	}
	ends := make([]netip.AddrPort, 2)
	for i := range ends {
		addr, err := netip.ParseAddr(fields[2+i])
		port, perr := strconv.ParseUint(fields[4+i], 10, 16)
		if err != nil || perr != nil || addr.Zone() != "" || addr.Is4() != (fields[1] == "TCP4") || strconv.FormatUint(port, 10) != fields[4+i] {
			return netip.AddrPort{}, false, errProxyHeader
		}
		ends[i] = netip.AddrPortFrom(addr, uint16(port))
	}
	return ends[0], true, nil
}

// readProxyV2 reads the binary form.
func readProxyV2(r io.Reader) (netip.AddrPort, bool, error) {
	head := make([]byte, 16)
	head[0] = proxyV2Start
	if _, err := io.ReadFull(r, head[1:]); err != nil {
		return netip.AddrPort{}, false, err
	}
	size := int(binary.BigEndian.Uint16(head[14:]))
	switch {
	case !bytes.HasPrefix(head, proxyV2Signature), head[12] != 0x20 && head[12] != 0x21:
		return netip.AddrPort{}, false, errProxyHeader
	case size > proxyV2Max:
		return netip.AddrPort{}, false, fmt.Errorf("%w: it is too long", errProxyHeader)
	}
	rest := make([]byte, size)
	if _, err := io.ReadFull(r, rest); err != nil {
		return netip.AddrPort{}, false, err
	}
	if head[12] == 0x20 { // LOCAL: the balancer speaks for itself
		return netip.AddrPort{}, false, nil
	}
	switch family := head[13]; {
	case family == 0x00, family == 0x31: // not told, or a Unix socket
		return netip.AddrPort{}, false, nil
	case family == 0x11 && size >= 12:
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(rest[0:4])), binary.BigEndian.Uint16(rest[8:])), true, nil
	case family == 0x21 && size >= 36:
		return netip.AddrPortFrom(netip.AddrFrom16([16]byte(rest[0:16])), binary.BigEndian.Uint16(rest[32:])), true, nil
	}
	return netip.AddrPort{}, false, errProxyHeader
}
