package command

import (
	"errors"
	"io/fs"
	"os"
	"strings"

	"github.com/limiquantix/limiquantix/cli/internal/api"
	"github.com/limiquantix/limiquantix/cli/internal/contexts"
	"github.com/limiquantix/limiquantix/cli/internal/failure"
	"github.com/limiquantix/limiquantix/cli/internal/nearest"
)

// connection is where to call and as whom, and where that is known from.
type connection struct {
	server, serverFrom string
	token, tokenFrom   string
	caFile, project    string
	context            string
}

// connection finds the controller: --server, --context, LQCTL_SERVER, LQCTL_CONTEXT, the current context, this host. A token never goes to a
// controller that it was not meant for: a context's only to its server, the admin token of this host only to this host.
func (s *session) connection() (connection, error) {
	c := connection{caFile: s.global.caFile}
	ctx, err := s.currentContext()
	if err != nil {
		return c, err
	}
	envServer := s.Getenv("LQCTL_SERVER")
	switch {
	case s.global.server != "":
		c.server, c.serverFrom, ctx = s.global.server, "--server", nil
	case s.global.context == "" && envServer != "":
		c.server, c.serverFrom, ctx = envServer, "LQCTL_SERVER", nil
	case ctx != nil:
		c.server, c.serverFrom, c.context = ctx.Server, "context "+ctx.Name, ctx.Name
		if c.caFile == "" {
			c.caFile = ctx.CAFile
		}
	default:
		c.server, c.serverFrom = api.DefaultServer, "default"
	}
	c.project = s.global.project
	if c.project == "" {
		c.project = s.Getenv("LQCTL_PROJECT")
	}
	if c.project == "" && ctx != nil {
		c.project = ctx.Project
	}
	if c.caFile == "" {
		c.caFile = s.Getenv("LQCTL_CA_FILE")
	}
	u, err := api.CheckServer(c.server)
	if err != nil {
		return c, failure.Usage("%w", err).WithFix("give scheme, host and port (from %s)", c.serverFrom)
	}
	return c, s.findToken(&c, ctx, api.IsLoopback(u.Hostname()))
}

// currentContext is the context that --context, LQCTL_CONTEXT or the file names; nil when none does, or --server stands above it.
func (s *session) currentContext() (*contexts.Context, error) {
	if s.global.server != "" {
		return nil, nil
	}
	f, err := s.contexts()
	if err != nil {
		return nil, err
	}
	name := s.global.context
	if name == "" {
		name = s.Getenv("LQCTL_CONTEXT")
	}
	if name == "" {
		name = f.Current
	}
	if name == "" {
		return nil, nil
	}
	ctx := f.Find(name)
	if ctx == nil {
		return nil, noContext(f, name)
	}
	return ctx, nil
}

func (s *session) contexts() (contexts.File, error) {
	f, err := contexts.Load(contexts.Path(s.Getenv))
	if errors.Is(err, contexts.ErrExposed) {
		return f, failure.New(failure.ExitGeneral, failure.ReasonContext, "%w", err).WithFix("chmod 600 %s", contexts.Path(s.Getenv))
	}
	if err != nil {
		return f, failure.New(failure.ExitGeneral, failure.ReasonContext, "contexts cannot be read: %w", err).WithFix("correct or remove the file")
	}
	return f, nil
}

func noContext(f contexts.File, name string) error {
	e := failure.New(failure.ExitNotFound, failure.ReasonContext, "there is no context %q", name).WithFix("lqctl context list shows them; lqctl context set makes one")
	if near := nearest.Word(name, f.Names()); near != "" {
		e.Message += "; did you mean \"" + near + "\"?"
	}
	return e
}

func (s *session) findToken(c *connection, ctx *contexts.Context, local bool) error {
	if path := s.global.tokenFile; path != "" {
		return c.readToken(path, "--token-file")
	}
	explicit := s.global.context != ""
	if !explicit {
		if t := strings.TrimSpace(s.Getenv("LQCTL_TOKEN")); t != "" {
			c.token, c.tokenFrom = t, "LQCTL_TOKEN"
			return nil
		}
		if path := s.Getenv("LQCTL_TOKEN_FILE"); path != "" {
			return c.readToken(path, "LQCTL_TOKEN_FILE")
		}
	}
	switch {
	case ctx != nil && ctx.Token != "":
		c.token, c.tokenFrom = ctx.Token, "context "+ctx.Name
		return nil
	case ctx != nil && ctx.TokenFile != "":
		return c.readToken(ctx.TokenFile, "context "+ctx.Name)
	}
	if local && s.AdminTokenFile != "" {
		err := c.readToken(s.AdminTokenFile, s.AdminTokenFile)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
			return nil // the controller will say that it wants a token
		}
		return err
	}
	return nil
}

func (c *connection) readToken(path, from string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return failure.New(failure.ExitForbidden, failure.ReasonFile, "the token cannot be read: %w", err).WithFix("check the file that %s names, and who may read it", from)
	}
	c.token, c.tokenFrom = strings.TrimSpace(string(data)), from
	if c.token == "" {
		return failure.New(failure.ExitForbidden, failure.ReasonFile, "%s holds no token", path).WithFix("put the token there, or name another file")
	}
	return nil
}

// dial makes the client, and tells the project to use.
func (s *session) dial() (*api.Client, string, error) {
	c, err := s.connection()
	if err != nil {
		return nil, "", err
	}
	if s.client == nil {
		s.client, err = api.New(api.Target{Server: c.server, Token: c.token, CAFile: c.caFile, UserAgent: "lqctl/" + s.Version})
		if err != nil {
			return nil, "", failure.New(failure.ExitUsage, failure.ReasonUsage, "%w", err).
				WithFix("use an https URL, or a tunnel to a port of this host; see --server and --ca-file")
		}
	}
	return s.client, c.project, nil
}
