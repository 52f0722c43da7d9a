package host

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/limiquantix/limiquantix/proto/fault"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

// binary is a plugin's executable, opened once: what was hashed is what is executed, whatever happens to the path.
type binary struct {
	file *os.File
	path string
	stat syscall.Stat_t // as it was before it was hashed
}

// openBinary opens the executable that a manifest names and holds it to the manifest's hash.
func openBinary(dir string, m *Manifest) (*binary, error) {
	path := filepath.Join(dir, m.Executable)
	// O_NONBLOCK: opening a FIFO must not wait for a writer.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fault.New(metav1.Reason_REASON_PLUGIN_MISSING, "no plugin binary at %s", path).WithRemedy("install the plugin again")
	} else if err != nil {
		return nil, invalid("opening the plugin binary: %w", err)
	}
	b := &binary{file: f, path: path}
	if err := b.check(m); err != nil {
		_ = f.Close()
		return nil, err
	}
	return b, nil
}

func (b *binary) check(m *Manifest) error {
	st, err := b.fstat()
	if err != nil {
		return invalid("reading the status of %s: %w", b.path, err)
	}
	b.stat = st
	switch mode := st.Mode; {
	case mode&syscall.S_IFMT != syscall.S_IFREG:
		return invalid("%s is not a plain file", b.path)
	case mode&0o111 == 0:
		return invalid("%s is not executable", b.path)
	case mode&0o002 != 0:
		return invalid("%s can be written by everybody", b.path)
	}
	sum, err := hashReader(b.file)
	if err != nil {
		return invalid("reading %s: %w", b.path, err)
	}
	if sum != m.SHA256 {
		return invalid("%s has sha256 %s, its manifest says %s", b.path, sum, m.SHA256)
	}
	return b.unchanged()
}

// unchanged reports an error when the opened file was written to since it was hashed. Executing protects it from then on.
func (b *binary) unchanged() error {
	now, err := b.fstat()
	if err != nil {
		return invalid("reading the status of %s: %w", b.path, err)
	}
	if now.Size != b.stat.Size || now.Mtim != b.stat.Mtim {
		return invalid("%s was changed while it was being started", b.path)
	}
	return nil
}

func (b *binary) fstat() (st syscall.Stat_t, err error) {
	raw, err := b.file.SyscallConn()
	if err != nil {
		return st, err
	}
	cerr := raw.Control(func(fd uintptr) { err = syscall.Fstat(int(fd), &st) })
	return st, errors.Join(cerr, err)
}

func (b *binary) close() { _ = b.file.Close() }

func invalid(format string, args ...any) error {
	return fault.New(metav1.Reason_REASON_PLUGIN_INVALID, "%w", fmt.Errorf(format, args...)).WithRemedy("install the plugin again")
}
