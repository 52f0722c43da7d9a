module github.com/limiquantix/limiquantix/test

go 1.26.0

replace (
	github.com/limiquantix/limiquantix/proto => ../proto
	github.com/limiquantix/limiquantix/sdk => ../sdk
)
