package state

import (
	statev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/state/v1"
)

// RemovePort removes a port's record and frees its addresses. Its name went with the mark of its deletion. The caller requires that the record is the one that it read.
func RemovePort(w *Writer, rec *statev1.PortRecord) {
	p := rec.GetPort()
	network := p.GetSpec().GetNetworkId()
	w.Delete(Key(KindPort, p.GetMeta().GetId()))
	w.Delete(MACKey(network, p.GetStatus().GetMac()))
	for _, a := range p.GetStatus().GetIpAddresses() {
		w.Delete(AddressKey(network, a))
	}
}
