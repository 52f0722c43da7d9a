module github.com/limiquantix/limiquantix/plugins/kvm

go 1.26.0

require (
	github.com/digitalocean/go-libvirt v0.0.0-20261013170128-efbbdf578ac8
	github.com/diskfs/go-diskfs v1.9.4
	github.com/google/go-cmp v0.7.0
	github.com/limiquantix/limiquantix/proto v0.0.0
	github.com/limiquantix/limiquantix/sdk v0.0.0
	github.com/limiquantix/limiquantix/sdk/conformance v0.0.0-00010101000000-000000000000
	github.com/limiquantix/limiquantix/test v0.0.0
	go.uber.org/goleak v1.3.0
	google.golang.org/grpc v1.85.0
	google.golang.org/protobuf v1.36.12
	libvirt.org/go/libvirtxml v1.11010.0
)

require (
	github.com/djherbis/times v1.6.0 // indirect
	github.com/fatih/color v1.13.0 // indirect
	github.com/golang/protobuf v1.5.4 // indirect
	github.com/hashicorp/go-hclog v1.6.3 // indirect
	github.com/hashicorp/go-plugin v1.8.0 // indirect
	github.com/hashicorp/yamux v0.1.2 // indirect
	github.com/mattn/go-colorable v0.1.12 // indirect
	github.com/mattn/go-isatty v0.0.17 // indirect
	github.com/oklog/run v1.1.0 // indirect
	github.com/vishvananda/netlink v1.3.1 // indirect
	github.com/vishvananda/netns v0.0.5 // indirect
	golang.org/x/crypto v0.58.0 // indirect
	golang.org/x/net v0.61.0 // indirect
	golang.org/x/sys v0.49.0 // indirect
	golang.org/x/text v0.43.0 // indirect
	google.golang.org/genproto/googleapis/rpc v0.0.0-20261104224025-d1e00e9f33ab // indirect
)

replace (
	github.com/limiquantix/limiquantix/plugins/kit => ../kit
	github.com/limiquantix/limiquantix/proto => ../../proto
	github.com/limiquantix/limiquantix/sdk => ../../sdk
	github.com/limiquantix/limiquantix/sdk/conformance => ../../sdk/conformance
	github.com/limiquantix/limiquantix/test => ../../test
)
