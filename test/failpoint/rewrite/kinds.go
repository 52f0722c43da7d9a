package rewrite

import (
	"go/ast"
	"go/constant"
	"go/types"
	"os"
	"slices"
	"strings"
)

// isCommit: the method of the store's interface, and nothing that an implementation does beneath it.
func isCommit(fn *types.Func) bool {
	return fn.Name() == "Commit" && receiver(fn) == module+"controller/internal/store.Store"
}

// isDriver: any method of a client of driver.v1, and the one that ends a stream of requests and waits for the answer.
func isDriver(fn *types.Func) bool {
	r := receiver(fn)
	if strings.HasPrefix(r, module+"proto/gen/limiquantix/driver/v1.") && strings.HasSuffix(r, "Client") {
		return true
	}
	return fn.Name() == "CloseAndRecv" && strings.HasPrefix(r, "google.golang.org/grpc.")
}

// writes are the functions and methods that leave something on disk, by receiver or package.
var writes = map[string][]string{
	"os": {
		"WriteFile", "Rename", "CreateTemp", "Create", "Mkdir", "MkdirAll", "MkdirTemp", "Remove", "RemoveAll", "Link", "Symlink", "Truncate", "Chmod", "Chown",
	},
	"os.File": {"Write", "WriteAt", "WriteString", "ReadFrom", "Sync", "Truncate", "Chmod"},
	"os.Root": {
		"WriteFile", "Rename", "Create", "Mkdir", "MkdirAll", "Remove", "RemoveAll", "Link", "Symlink", "Chmod", "Chown",
	},
	"golang.org/x/sys/unix": {
		"IoctlFileClone", "IoctlFileCloneRange", "CopyFileRange", "Fallocate", "Ftruncate", "Fsync", "Fdatasync", "Pwrite", "Write", "Renameat2", "Unlink", "Mount", "Unmount",
	},
	"go.etcd.io/bbolt":    {"Open"},
	"go.etcd.io/bbolt.DB": {"Update", "Batch", "Begin", "Sync"},
}

// isProgram: another program's run, or its start.
func isProgram(fn *types.Func) bool {
	return receiver(fn) == "os/exec.Cmd" && slices.Contains([]string{"Run", "Start", "Output", "CombinedOutput"}, fn.Name())
}

// isWrite: one of writes, or an opening of a file for writing.
func isWrite(info *types.Info, call *ast.CallExpr, fn *types.Func) bool {
	where := receiver(fn)
	if where == "" && fn.Pkg() != nil {
		where = fn.Pkg().Path()
	}
	if slices.Contains(writes[where], fn.Name()) {
		return true
	}
	if fn.Name() != "OpenFile" || where != "os" && where != "os.Root" || len(call.Args) < 2 {
		return false
	}
	flag := info.Types[call.Args[1]].Value
	if flag == nil { // not known before it runs
		return true
	}
	n, _ := constant.Int64Val(flag)
	return n&int64(os.O_WRONLY|os.O_RDWR|os.O_CREATE|os.O_TRUNC|os.O_APPEND) != 0
}

// receiver is the type that a method belongs to, "path.Name"; "" for a function.
func receiver(fn *types.Func) string {
	recv := fn.Signature().Recv()
	if recv == nil {
		return ""
	}
	t := types.Unalias(recv.Type())
	if p, ok := t.(*types.Pointer); ok {
		t = types.Unalias(p.Elem())
	}
	n, ok := t.(*types.Named)
	if !ok {
		return ""
	}
	if n.Obj().Pkg() == nil {
		return n.Obj().Name()
	}
	return n.Obj().Pkg().Path() + "." + n.Obj().Name()
}
