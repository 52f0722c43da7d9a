package wire

// FileOp says what to do with a file of the guest.
type FileOp string

// What a FileCall may ask for. Links are followed; a block device is told as a regular file of its size.
const (
	FileStat     FileOp = "stat"
	FileList     FileOp = "list"
	FileOpen     FileOp = "open"
	FileClose    FileOp = "close"
	FileRead     FileOp = "read"
	FileWrite    FileOp = "write"
	FileSync     FileOp = "sync"
	FileTruncate FileOp = "truncate"
	FileChmod    FileOp = "chmod"
	FileChown    FileOp = "chown"
)

// FileCall asks for one of them; what it does not need is empty.
type FileCall struct {
	Op       FileOp
	Path     string
	Handle   uint64 // from FileOpen
	Flags    int    // of open(2)
	Offset   int64  // or the new size
	Size     int
	Data     []byte
	Mode     uint32
	UID, GID int
}

// FileReply answers it.
type FileReply struct {
	Errno  int // 0 = done
	Handle uint64
	Size   int // written
	Data   []byte
	Names  []string
	Attr   FileAttr
}

// FileAttr is what stat(2) says.
type FileAttr struct {
	Mode, UID, GID, Nlink uint32
	Ino                   uint64
	Size                  int64
	Mtime                 int64 // ns
}

// FileService is the name of the guest's service in net/rpc: Do(FileCall, *FileReply).
const FileService = "Files"
