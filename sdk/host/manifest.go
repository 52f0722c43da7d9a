package host

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"

	"github.com/limiquantix/limiquantix/proto/fault"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	"github.com/limiquantix/limiquantix/sdk"
)

// ManifestName is the file beside a plugin's binary that says what the binary is.
const ManifestName = "plugin.json"

// maxManifestBytes bounds what is read of a manifest.
const maxManifestBytes = 64 << 10

// Manifest says what a plugin is, without running it. It is the packager's statement; Launch holds binary and plugin to it.
type Manifest struct {
	Name       string   `json:"name"`                 // a-z, 0-9, '-', at most 32
	Version    string   `json:"version"`              // as the plugin itself says
	Kinds      []string `json:"kinds"`                // "compute", "storage", "network"; at least one
	SHA256     string   `json:"sha256"`               // of the binary, lower-case hex
	Privileges []string `json:"privileges,omitempty"` // what it needs on the host, for people and packagers: "root", "cap_net_admin", ...
	Executable string   `json:"executable"`           // file name of the binary, in the manifest's directory
}

var (
	nameForm      = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$`)
	versionForm   = regexp.MustCompile(`^[0-9A-Za-z][0-9A-Za-z.+-]{0,63}$`)
	sumForm       = regexp.MustCompile(`^[0-9a-f]{64}$`)
	privilegeForm = regexp.MustCompile(`^[a-z][a-z0-9_-]{0,31}$`)
	fileForm      = regexp.MustCompile(`^[0-9A-Za-z_][0-9A-Za-z._+-]{0,127}$`)
)

// ReadManifest reads dir/plugin.json strictly. PLUGIN_MISSING when there is none, PLUGIN_INVALID when it is not right.
func ReadManifest(dir string) (*Manifest, error) {
	path := filepath.Join(dir, ManifestName)
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fault.New(metav1.Reason_REASON_PLUGIN_MISSING, "no plugin manifest at %s", path).WithRemedy("install the plugin there, with its %s", ManifestName)
	} else if err != nil {
		return nil, fault.New(metav1.Reason_REASON_PLUGIN_INVALID, "reading the plugin manifest: %w", err)
	}
	defer f.Close() //nolint:errcheck // only read
	data, err := io.ReadAll(io.LimitReader(f, maxManifestBytes+1))
	if err != nil {
		return nil, fault.New(metav1.Reason_REASON_PLUGIN_INVALID, "reading %s: %w", path, err)
	}
	m, err := ParseManifest(data)
	if err != nil {
		return nil, fault.New(metav1.Reason_REASON_PLUGIN_INVALID, "plugin manifest %s: %w", path, err).WithRemedy("install the plugin again")
	}
	return m, nil
}

// ParseManifest reads a manifest strictly: unknown keys, trailing data and values out of form are errors.
func ParseManifest(data []byte) (*Manifest, error) {
	if len(data) > maxManifestBytes {
		return nil, fmt.Errorf("more than %d bytes", maxManifestBytes)
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	var m Manifest
	if err := dec.Decode(&m); err != nil {
		return nil, err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("data after the JSON object")
	}
	return &m, m.Validate()
}

// Validate says what is wrong with a manifest's values, all at once.
func (m *Manifest) Validate() error {
	var errs []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	check(nameForm.MatchString(m.Name), "name %q: must be 1-32 of a-z, 0-9 and '-'", m.Name)
	check(versionForm.MatchString(m.Version), "version %q: must be 1-64 of letters, digits, '.', '+', '-'", m.Version)
	check(sumForm.MatchString(m.SHA256), "sha256 %q: must be 64 lower-case hex digits", m.SHA256)
	check(fileForm.MatchString(m.Executable), "executable %q: must be a plain file name", m.Executable)
	check(len(m.Kinds) > 0, "kinds: at least one is needed")
	for i, k := range m.Kinds {
		_, err := sdk.ParseKind(k)
		check(err == nil, "kinds: %w", err)
		check(!slices.Contains(m.Kinds[:i], k), "kinds: %q is there twice", k)
	}
	for _, p := range m.Privileges {
		check(privilegeForm.MatchString(p), "privilege %q: must be lower-case letters, digits, '_', '-'", p)
	}
	return errors.Join(errs...)
}

// DriverKinds are the manifest's kinds as the contract names them.
func (m *Manifest) DriverKinds() []driverv1.DriverKind {
	kinds := make([]driverv1.DriverKind, 0, len(m.Kinds))
	for _, k := range m.Kinds {
		if kind, err := sdk.ParseKind(k); err == nil {
			kinds = append(kinds, kind)
		}
	}
	return kinds
}

// WriteManifest computes the hash of dir/m.Executable, sets it in m and writes dir/plugin.json, whole or not at all.
func WriteManifest(dir string, m *Manifest) error {
	sum, err := hashFile(filepath.Join(dir, m.Executable))
	if err != nil {
		return err
	}
	m.SHA256 = sum
	if err := m.Validate(); err != nil {
		return err
	}
	data, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return err
	}
	tmp, err := os.CreateTemp(dir, ManifestName+".")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name()) //nolint:errcheck // gone after the rename
	_, err = tmp.Write(append(data, '\n'))
	err = errors.Join(err, tmp.Chmod(0o644), tmp.Sync(), tmp.Close())
	if err != nil {
		return err
	}
	return os.Rename(tmp.Name(), filepath.Join(dir, ManifestName))
}

func hashFile(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close() //nolint:errcheck // only read
	return hashReader(f)
}

func hashReader(r io.Reader) (string, error) {
	h := sha256.New()
	if _, err := io.Copy(h, r); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
