package stack

import (
	"context"
	"fmt"
	"regexp"
	"strings"
)

// Shell is a guest's console: what is typed is run by the shell on it. Its calls come one after the other.
type Shell struct {
	Stack *Stack
	VM    string
	n     int
}

// Run runs a command in the guest and returns what it printed, and its exit code.
func (g *Shell) Run(ctx context.Context, command string) (printed string, code string, err error) {
	g.n++
	begin, end := fmt.Sprintf("BEGIN-%d-", g.n), fmt.Sprintf("END-%d-", g.n)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	cmd := g.Stack.Command(ctx, "vm", "console", g.VM)
	in, err := cmd.StdinPipe()
	if err != nil {
		return "", "", err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return "", "", err
	}
	if err := cmd.Start(); err != nil {
		return "", "", err
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	// The markers are put together by the guest, so that its echo of what is typed does not hold them.
	line := fmt.Sprintf("\necho BEGIN-%d''-; %s; echo END-%d''-$?\n", g.n, command, g.n)
	if _, err := in.Write([]byte(line)); err != nil {
		return "", "", err
	}
	answer := regexp.MustCompile(`(?s)` + begin + `\r?\n(.*?)` + end + `(\d+)`)
	var seen strings.Builder
	buf := make([]byte, 4096)
	for {
		n, err := out.Read(buf)
		seen.Write(buf[:n])
		if m := answer.FindStringSubmatch(seen.String()); m != nil {
			return strings.TrimSpace(strings.ReplaceAll(m[1], "\r", "")), m[2], nil
		}
		if err != nil {
			return "", "", fmt.Errorf("in guest %s: %s: %w after %q", g.VM, command, err, seen.String())
		}
	}
}
