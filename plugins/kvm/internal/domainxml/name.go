package domainxml

import (
	"path/filepath"
	"regexp"
	"strings"
)

// Files are the driver's own files of a domain. Its VNC socket lies where libvirt puts it.
type Files struct {
	Dir     string // all but the socket
	Seed    string // cloud-init medium
	Started string // boot id of the host at the domain's last start
	Frozen  string // there while the driver holds the guest's file systems frozen

	ConsoleLog    string // written by virtlogd, which keeps earlier parts beside it
	ConsoleSocket string
}

// SocketNameBytes is the length of a socket's name in the runtime directory, with its slash; a path of a unix socket ends at 107 bytes.
const SocketNameBytes = 1 + 32 + len(socketSuffix)

const socketSuffix = ".tty"

// FilesOf places a domain's files: what stays in the state directory, sockets in the runtime directory. Sockets carry the whole id: ids that are made
// one after the other share their beginning.
func FilesOf(stateDir, runtimeDir, id string) Files {
	dir := filepath.Join(stateDir, "domains", id)
	return Files{
		Dir: dir, Seed: filepath.Join(dir, "seed.iso"), Started: filepath.Join(dir, "started"), Frozen: filepath.Join(dir, "frozen"),
		ConsoleLog:    filepath.Join(dir, "console.log"),
		ConsoleSocket: filepath.Join(runtimeDir, strings.ReplaceAll(id, "-", "")+socketSuffix),
	}
}

var notSafe = regexp.MustCompile(`[^A-Za-z0-9._-]+`)

// Name is a new domain's name in libvirt: for people, safe in paths, and unique by the id's random end (the beginning of an id is a time: domains of two
// projects that are made in one minute may share name and beginning).
func Name(id, name string) string {
	n := strings.Trim(notSafe.ReplaceAllString(name, "-"), "-.")
	if len(n) > 48 {
		n = n[:48]
	}
	return strings.TrimRight("lq-"+id[24:]+"-"+n, "-")
}

func firstOf(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return ""
}
