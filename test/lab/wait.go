package lab

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strings"
	"time"
)

// WaitLine returns the first line of a growing file that contains text, such
// as a guest's console; the file need not exist yet. When ctx ends the error
// holds the end of the file.
func WaitLine(ctx context.Context, file, text string) (string, error) {
	return WaitLineAfter(ctx, file, 0, text)
}

// WaitLineAfter is WaitLine that leaves out the first offset bytes: what was
// there before a reboot, say. Only whole lines count.
func WaitLineAfter(ctx context.Context, file string, offset int64, text string) (string, error) {
	for {
		body, _ := os.ReadFile(file)
		if offset < int64(len(body)) {
			rest := body[offset:]
			if i := bytes.Index(rest, []byte(text)); i >= 0 {
				if end := bytes.IndexByte(rest[i:], '\n'); end >= 0 {
					start := bytes.LastIndexByte(rest[:i], '\n') + 1
					return strings.TrimSpace(string(rest[start : i+end])), nil
				}
			}
		}
		if err := pause(ctx, 50*time.Millisecond); err != nil {
			return "", fmt.Errorf("no line with %q in %s: %w; its end:\n%s", text, file, err, lastLines(string(body), 20))
		}
	}
}
