module github.com/limiquantix/limiquantix/test

go 1.26.0

replace (
	github.com/limiquantix/limiquantix/proto => ../proto
	github.com/limiquantix/limiquantix/sdk => ../sdk
)

require github.com/diskfs/go-diskfs v1.9.4

require (
	github.com/djherbis/times v1.6.0 // indirect
	golang.org/x/sys v0.43.0 // indirect
)
