package lab

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// aptState is all that apt's answers about packages follow from.
var aptState = []string{
	"/etc/apt/apt.conf*", "/etc/apt/apt.conf.d/*", "/etc/apt/preferences*", "/etc/apt/preferences.d/*", "/etc/apt/sources.list*", "/etc/apt/sources.list.d/*",
	"/var/lib/apt/lists/*", "/var/lib/dpkg/status",
}

// aptShow returns what apt says of the versions of packages that it would
// install. apt reads all its lists for each answer, a second of CPU time where
// images of containers tell it to keep no cache of its own; the answer is kept
// until anything that it follows from changes.
func aptShow(ctx context.Context, names ...string) (string, error) {
	cache, err := OpenCache()
	if err != nil {
		return "", err
	}
	return keptAnswer(cache, "apt-"+Key(names...), aptState, func() (string, error) {
		return output(exec.CommandContext(ctx, "apt-cache", append([]string{"show", "--no-all-versions"}, names...)...))
	})
}

// keptAnswer returns what ask answered when the files that match the patterns
// were as they are now.
func keptAnswer(cache Cache, name string, patterns []string, ask func() (string, error)) (string, error) {
	var state []string
	for _, p := range patterns {
		files, err := filepath.Glob(p)
		if err != nil {
			return "", err
		}
		for _, f := range files {
			if st, err := os.Stat(f); err == nil {
				state = append(state, fmt.Sprint(f, st.Size(), st.ModTime().UnixNano()))
			}
		}
	}
	key, file := Key(state...), filepath.Join(cache.Dir, name)
	if kept, err := os.ReadFile(file); err == nil {
		if answer, ok := strings.CutPrefix(string(kept), key+"\n"); ok {
			return answer, nil
		}
	}
	answer, err := ask()
	if err != nil {
		return "", err
	}
	tmp, err := os.CreateTemp(cache.Dir, "tmp-")
	if err != nil {
		return "", err
	}
	_, err = tmp.WriteString(key + "\n" + answer)
	if cerr := tmp.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(tmp.Name(), file)
	}
	if err != nil {
		_ = os.Remove(tmp.Name())
		return "", fmt.Errorf("keep what apt said: %w", err)
	}
	return answer, nil
}
