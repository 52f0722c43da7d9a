// Command plugin-manifest writes the plugin.json beside a plugin's binary. Builds call it after linking:
//
//	plugin-manifest -privileges root bin/limiquantix-plugin-kvm
//
// Name, version and kinds are asked of the binary (--plugin-info) unless given by flags, which binaries for other machines, or not made with the SDK, need.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/limiquantix/limiquantix/sdk"
	"github.com/limiquantix/limiquantix/sdk/host"
)

func main() {
	if err := run(os.Args[1:], os.Stderr); err != nil {
		if !errors.Is(err, flag.ErrHelp) {
			_, _ = fmt.Fprintln(os.Stderr, "plugin-manifest:", err)
		}
		os.Exit(1)
	}
}

func run(args []string, usage io.Writer) error {
	fs := flag.NewFlagSet("plugin-manifest", flag.ContinueOnError)
	fs.SetOutput(usage)
	name := fs.String("name", "", "name; asked of the binary when empty")
	version := fs.String("version", "", "version; asked of the binary when empty")
	kinds := fs.String("kinds", "", "kinds, comma-separated; asked of the binary when empty")
	privileges := fs.String("privileges", "", "what it needs on the host, comma-separated")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if fs.NArg() != 1 {
		return errors.New("usage: plugin-manifest [flags] BINARY")
	}
	binary := fs.Arg(0)
	m := &host.Manifest{Name: *name, Version: *version, Kinds: split(*kinds), Privileges: split(*privileges), Executable: filepath.Base(binary)}
	if m.Name == "" || m.Version == "" || len(m.Kinds) == 0 {
		d, err := ask(binary)
		if err != nil {
			return fmt.Errorf("%w (give -name, -version and -kinds if it cannot run here)", err)
		}
		m.Name, m.Version = or(m.Name, d.Name), or(m.Version, d.Version)
		if len(m.Kinds) == 0 {
			m.Kinds = d.Kinds
		}
	}
	return host.WriteManifest(filepath.Dir(binary), m)
}

func ask(binary string) (d sdk.Description, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	path, err := filepath.Abs(binary)
	if err != nil {
		return d, err
	}
	out, err := exec.CommandContext(ctx, path, "--plugin-info").Output()
	if err != nil {
		return d, fmt.Errorf("asking %s what it is: %w", binary, err)
	}
	if err := json.Unmarshal(out, &d); err != nil {
		return d, fmt.Errorf("%s --plugin-info: %w", binary, err)
	}
	return d, nil
}

func split(s string) []string {
	return strings.FieldsFunc(s, func(r rune) bool { return r == ',' || r == ' ' })
}

func or(a, b string) string {
	if a != "" {
		return a
	}
	return b
}
