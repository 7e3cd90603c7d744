package agent

import (
	"fmt"
	"io"

	"github.com/pkg/sftp"
)

// SFTPMain serves the SFTP protocol on stdin and stdout until stdin ends. It
// reads and writes whatever the process may, so it has to run as the user it
// serves; relative names start in its working directory.
func SFTPMain(stdin io.Reader, stdout io.Writer) error {
	server, err := sftp.NewServer(stdio{stdin, stdout})
	if err != nil {
		return fmt.Errorf("sftp: %w", err)
	}
	if err := server.Serve(); err != nil {
		return fmt.Errorf("sftp: %w", err)
	}
	return nil
}

// stdio makes one connection of two streams.
type stdio struct {
	io.Reader
	io.Writer
}

// Close closes the streams that can be closed, to end a read that is under way
// when the protocol is broken.
func (s stdio) Close() error {
	var first error
	for _, stream := range []any{s.Reader, s.Writer} {
		if c, ok := stream.(io.Closer); ok {
			if err := c.Close(); err != nil && first == nil {
				first = err
			}
		}
	}
	return first
}
