module github.com/limiquantix/limiquantix/sdk/conformance

go 1.26.0

require (
	github.com/limiquantix/limiquantix/proto v0.0.0
	github.com/limiquantix/limiquantix/sdk v0.0.0
)

replace (
	github.com/limiquantix/limiquantix/proto => ../../proto
	github.com/limiquantix/limiquantix/sdk => ./..
)
