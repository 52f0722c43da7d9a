package command

import (
	"io"
	"strings"
	"testing"

	"github.com/limiquantix/limiquantix/cli/internal/failure"
)

// On a terminal what is typed goes to the guest until Ctrl-], and the terminal is raw meanwhile.
func TestConsoleOnATerminal(t *testing.T) {
	b := newBench(t)
	b.ok("vm", "create", "web")
	in, typing := io.Pipe()
	defer typing.Close()
	var raw, restored int
	b.in = in
	b.change = func(a *App) {
		a.InTTY = true
		a.RawInput = func() (func(), error) {
			raw++
			return func() { restored++ }, nil
		}
	}
	var out, errs buffer
	app := b.app(&out, &errs)
	ended := make(chan int, 1)
	go func() { ended <- app.Run(t.Context(), []string{"vm", "console", "web"}) }() // ends by Ctrl-], below
	if _, err := typing.Write([]byte("ls\x03")); err != nil {
		t.Fatal(err)
	}
	waitText(t, &out, "LS\x03")
	if _, err := typing.Write([]byte("x\x1drest")); err != nil {
		t.Fatal(err)
	}
	if code := <-ended; code != 0 || raw != 1 || restored != 1 || !strings.Contains(errs.String(), "Ctrl-] leaves") {
		t.Errorf("exit %d, raw %d, restored %d, %q", code, raw, restored, errs.String())
	}
	b.server.WaitFor(t, func() bool { return string(b.server.Typed) == "ls\x03x" })
}

// A pipe is sent whole, Ctrl-] too, and the command ends some time after the input.
func TestConsoleOfAPipe(t *testing.T) {
	b := newBench(t)
	b.ok("vm", "create", "web")
	text := strings.Repeat("line\n", 10_000) + "\x1d"
	b.in = strings.NewReader(text)
	if got := b.ok("vm", "console", "web", "--idle", "300ms"); got != strings.ToUpper(text) {
		t.Errorf("%d bytes of %d came back", len(got), len(text))
	}
	b.in = strings.NewReader("bye") // the console closes
	if got := b.ok("vm", "console", "web", "--idle", "0"); got != "BYE" {
		t.Errorf("%q", got)
	}
	b.fails(failure.ExitNotFound, []string{"vm", "console", "absent"}, "NOT_FOUND")
}
