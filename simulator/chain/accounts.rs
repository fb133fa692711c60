//! The ten development accounts that every Ethereum tool knows.
//!
//! THESE KEYS ARE PUBLIC. They come from the mnemonic "test test test test test test test test test
//! test test junk"; whatever they hold on a real chain is taken within seconds.

use alloy::primitives::{U256, hex};

/// Private keys, in the order of derivation. Public knowledge, see above.
pub const DEV_KEYS: [[u8; 32]; 10] = [
    hex!("ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80"),
    hex!("59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d"),
    hex!("5de4111afa1a4b94908f83103eb1f1706367c2e68ca870fc3fb9a804cdab365a"),
    hex!("7c852118294e51e653712a81e05800f419141751be58f605c371e15141b007a6"),
    hex!("47e179ec197488593b187f80a00eb0da91f1b9d0b13f8733639f19c30a34926a"),
    hex!("8b3a350cf5c34c9194ca85829a2df0ec3153be0318b5e2d3348e872092edffba"),
    hex!("92db14e403b83dfe3df233f83dfa3a0d7096f21ca9b0d6d6b8d88b2b4ec1564e"),
    hex!("4bbbf85ce3377467afe5d46f804f221813b2bb87f24d81f60f1fcdbf7cbf4356"),
    hex!("dbda1821b80551c9d65939329250298aa3472ba22feea921c0cf5d620ea67b97"),
    hex!("2a871d0798f97d79848a013d4936a73bf4cc922c825d33c1cf7073dff6d409c6"),
];

/// Their addresses, in the same order.
pub const DEV_ADDRESSES: [[u8; 20]; 10] = [
    hex!("f39fd6e51aad88f6f4ce6ab8827279cfffb92266"),
    hex!("70997970c51812dc3a010c7d01b50e0d17dc79c8"),
    hex!("3c44cdddb6a900fa2b585dd299e03d12fa4293bc"),
    hex!("90f79bf6eb2c4f870365e785982e1f101e93b906"),
    hex!("15d34aaf54267db7d7c367839aaf71a00a2c6a65"),
    hex!("9965507d1a55bcc2695c58ba16fb37d819b0a4dc"),
    hex!("976ea74026e726554db657fa54763abd0c3a0aa9"),
    hex!("14dc79964da2c08b23698b3d3cc7ca32193d9955"),
    hex!("23618e81e3f5cdf7f54c3d65f7fbc0abf5b21e8f"),
    hex!("a0ee7a142d267c1f36714e4a8f75612f20a79720"),
];

/// What each of them holds in the first block: 10,000 ETH.
pub(crate) const DEV_BALANCE: U256 = U256::from_limbs([0x19e0c9bab2400000, 0x21e, 0, 0]);

#[cfg(test)]
mod tests {
    use super::*;
    use alloy::signers::local::PrivateKeySigner;

    #[test]
    fn every_development_key_belongs_to_the_address_beside_it() {
        for (key, address) in DEV_KEYS.iter().zip(DEV_ADDRESSES) {
            let signer = PrivateKeySigner::from_slice(key).expect("a well-known key");
            assert_eq!(signer.address().into_array(), address);
        }
    }

    #[test]
    fn each_holds_ten_thousand_ether() {
        assert_eq!(
            DEV_BALANCE,
            U256::from(10_000_u64) * U256::from(10_u64).pow(U256::from(18_u64))
        );
    }
}
