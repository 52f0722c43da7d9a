package command

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/limiquantix/limiquantix/cli/internal/contexts"
	"github.com/limiquantix/limiquantix/cli/internal/failure"
	"github.com/limiquantix/limiquantix/cli/internal/fakeapi"
)

func TestContexts(t *testing.T) {
	b := newBench(t)
	b.env = map[string]string{"HOME": t.TempDir()}
	b.in = strings.NewReader(fakeapi.Token + "\n")
	b.ok("context", "set", "lab", "--server", b.server.URL, "--token-stdin")
	if info, err := os.Stat(contexts.Path(func(k string) string { return b.env[k] })); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", info, err)
	}
	b.ok("vm", "list") // the first context is current
	b.ok("context", "set", "far", "--server", "https://far.example:8080", "--project", "p", "--token-file", "/nowhere")
	if got := b.ok("context", "list"); got != "CURRENT   NAME   SERVER                     PROJECT\n          far    https://far.example:8080   p\n*         lab    "+b.server.URL+strings.Repeat(" ", 27-len(b.server.URL))+"-\n" {
		t.Errorf("\n%s", got)
	}
	if got := b.ok("context", "show"); strings.Contains(got, fakeapi.Token) || !strings.Contains(got, "from context lab") {
		t.Error(got)
	}
	if got := b.ok("context", "show", "-o", "json") + b.ok("context", "list", "-o", "yaml"); strings.Contains(got, fakeapi.Token) {
		t.Error(got)
	}
	b.ok("context", "use", "far")
	b.fails(failure.ExitForbidden, []string{"vm", "list"}, "/nowhere")
	b.ok("vm", "list", "--context", "lab")
	b.env["LQCTL_CONTEXT"] = "lab"
	b.ok("vm", "list")
	b.ok("context", "delete", "far")
	b.fails(failure.ExitNotFound, []string{"context", "use", "lap"}, `did you mean "lab"?`)
	b.fails(failure.ExitNotFound, []string{"vm", "list", "--context", "far"}, "CONTEXT")
	b.fails(failure.ExitUsage, []string{"context", "set", "x", "--server", "lab:8080"}, "is not a URL")
	if err := os.Chmod(contexts.Path(func(k string) string { return b.env[k] }), 0o644); err != nil {
		t.Fatal(err)
	}
	b.fails(failure.ExitGeneral, []string{"vm", "list"}, "may be read by others", "chmod 600")
}

// A token goes to the controller that it is for, and to no other.
func TestTokensStayWhereTheyBelong(t *testing.T) {
	b := newBench(t)
	admin := filepath.Join(t.TempDir(), "admin.token")
	if err := os.WriteFile(admin, []byte(fakeapi.Token+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	b.env = map[string]string{"HOME": t.TempDir()}
	b.fails(failure.ExitForbidden, []string{"vm", "list", "--server", b.server.URL}, "UNAUTHENTICATED")
	b.change = func(a *App) { a.AdminTokenFile = admin }
	b.ok("vm", "list", "--server", b.server.URL) // the admin token of this host
	b.in = strings.NewReader("other")
	b.ok("context", "set", "lab", "--server", "https://lab.example:1", "--token-stdin")
	s := &session{App: b.app(nil, nil)}
	for _, tc := range []struct {
		server, context, env string
		server2, token       string
	}{
		{server2: "https://lab.example:1", token: "other"},
		{server: "https://elsewhere.example:1", server2: "https://elsewhere.example:1"},
		{server: "http://localhost:1", server2: "http://localhost:1", token: fakeapi.Token},
		{context: "lab", env: "from-env", server2: "https://lab.example:1", token: "other"},
		{env: "from-env", server2: "https://lab.example:1", token: "from-env"},
	} {
		b.env["LQCTL_TOKEN"] = tc.env
		s.global = globals{server: tc.server, context: tc.context}
		c, err := s.connection()
		if err != nil || c.server != tc.server2 || c.token != tc.token {
			t.Errorf("%+v: %+v %v", tc, c, err)
		}
	}
	b.env["LQCTL_TOKEN"] = "x"
	b.fails(failure.ExitUsage, []string{"vm", "list", "--server", "http://192.0.2.1:8080"}, "in the clear")
}

func TestVersionWithoutAController(t *testing.T) {
	b := newBench(t)
	b.env["LQCTL_SERVER"] = "http://127.0.0.1:1"
	if r := b.fails(failure.ExitUnavailable, []string{"version"}); r.out != "Client:  0.1.0 (test)\n" {
		t.Errorf("%q", r.out)
	}
	if got := b.ok("version", "--client", "-o", "json"); !strings.Contains(got, `"version": "0.1.0"`) {
		t.Error(got)
	}
	if got := b.ok("--version"); got != "lqctl 0.1.0 (test)\n" {
		t.Errorf("%q", got)
	}
}
